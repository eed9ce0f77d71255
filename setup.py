"""Packaging of wilson; every fact comes from settings.ini, which nbdev reads too."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
facts = parser["DEFAULT"]


class BuildWithNotebooks(build_py):
    "Puts what `wilson new` writes into the package: the notebooks are its source, and lie outside of it."

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # a clone has them
            return
        for name in (here / "wilson/workbench/templates/files.txt").read_text(encoding="utf-8").split():
            target = Path(self.build_lib) / "wilson/workbench/files" / name
            self.mkpath(str(target.parent))
            self.copy_file(str(here / name), str(target))


setup(
    name=facts["dist_name"],
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
                  "wilson.experiments": ["templates/*.sh"], "wilson.workbench": ["templates/*"]},
    cmdclass={"build_py": BuildWithNotebooks},
    python_requires=f">={facts['min_python']}",
    install_requires=facts["requirements"].split(),
    extras_require={
        "notebook": facts["notebook_requirements"].split(),
        "inplace": facts["inplace_requirements"].split(),
        "coco": facts["coco_requirements"].split(),
        "timm": facts["timm_requirements"].split(),
        "export": facts["export_requirements"].split(),
        "hub": facts["hub_requirements"].split(),
        "wandb": facts["wandb_requirements"].split(),
        "sbd": facts["sbd_requirements"].split(),
        "voila": facts["voila_requirements"].split(),
        "dev": facts["dev_requirements"].split(),
    },
    entry_points={"console_scripts": ["wilson=wilson.cli.command:main"]},
    zip_safe=False,
)
