"""Packaging of wilson; every fact comes from settings.ini, which nbdev reads too."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
facts = parser["DEFAULT"]

setup(
    name=facts["lib_name"],
    version=facts["version"],
    description=facts["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=facts["author"],
    author_email=facts["author_email"],
    license="MIT",
    keywords=facts["keywords"].split(", "),
    packages=find_packages(include=["wilson", "wilson.*"]),
    package_data={"wilson": ["py.typed"], "wilson.methods": ["builtin.json"], "wilson.widgets": ["browser/*"],
                  "wilson.levers": ["similarities.json"],
                  "wilson.core": ["html_templates/*"],
                  "wilson.experiments": ["templates/*.sh"]},
    python_requires=f">={facts['min_python']}",
    install_requires=facts["requirements"].split(),
    extras_require={
        "notebook": facts["notebook_requirements"].split(),
        "inplace": facts["inplace_requirements"].split(),
        "coco": facts["coco_requirements"].split(),
        "timm": facts["timm_requirements"].split(),
        "export": facts["export_requirements"].split(),
        "hub": facts["hub_requirements"].split(),
        "sbd": facts["sbd_requirements"].split(),
        "voila": facts["voila_requirements"].split(),
        "dev": facts["dev_requirements"].split(),
    },
    entry_points={"console_scripts": ["wilson=wilson.cli.command:main"]},
    zip_safe=False,
)
