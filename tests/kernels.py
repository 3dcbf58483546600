"""Kernels for papermill that start at once: they are forked from the server of `workers.py`, which has imported the
package. Apart from that they are kernels like any other, in a process of their own."""

import os
import signal

from jupyter_client.manager import AsyncKernelManager
from workers import start


def run_kernel(arguments, cwd):
    "What `python -m ipykernel_launcher` does."
    from ipykernel.kernelapp import launch_new_instance

    os.chdir(cwd)
    os.environ["JPY_PARENT_PID"] = str(os.getppid())  # when the server is gone, so is the kernel
    launch_new_instance(arguments)


class ForkedKernel:
    "A forked process as jupyter_client wants it, with the methods of `subprocess.Popen`."

    stdin = stdout = stderr = None

    def __init__(self, arguments, cwd):
        self.process = start(run_kernel, arguments, cwd)
        self.pid = self.process.pid

    def poll(self):
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)


class ForkedKernels(AsyncKernelManager):
    async def _async_launch_kernel(self, kernel_cmd, **options):
        arguments = kernel_cmd[kernel_cmd.index("-f") :]
        self.provisioner.process = ForkedKernel(arguments, options.get("cwd") or os.getcwd())
        self.provisioner.pid = self.provisioner.process.pid
        self._reconcile_connection_info(self.provisioner.connection_info)

    _launch_kernel = _async_launch_kernel
