"""Packaging from settings.ini, the one place where the project's metadata stands."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {"lab": ["lab"], "dev": ["lab", "dev"], "bench": ["bench"], "docs": ["docs"]}  # extra: lists of settings.ini

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    packages=find_packages(include=["cdrl", "cdrl.*"]),
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={
        name: [package for part in parts for package in cfg[f"{part}_requirements"].split()]
        for name, parts in EXTRAS.items()
    },
)
