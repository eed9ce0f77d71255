"""Files of image-level labels in the forms that people and programs write: read in one way, or refused with both ways."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import refused, run, says
from farm import FARM, make_farm

from wilson.core.errors import InputError
from wilson.data.classes import Classes
from wilson.data.image_labels import read_label_table

NAMES = ("cow", "horse", "guinea pig", "Sheep")
CLASSES = Classes("farm", NAMES, (1, 2, 3, 5))
TRUTH = {"im 1": (1, 2), "im2": (3,), "im3": ()}

TABLES = {
    "a line an image": "im 1.jpg,cow,horse\nim2.jpg,guinea pig\nim3.jpg\n",
    "a line an image, without suffix": "im 1,cow,horse\nim2,guinea pig\nim3,\n",
    "paths": "photos/im 1.jpg,cow,horse\nC:\\photos\\im2.JPG,guinea pig\nim3.png\n",
    "titles": "image,class\nim 1,cow,horse\nim2,guinea pig\nim3\n",
    "titles of every column": "image,class1,class2\nim 1,cow,horse\nim2,guinea pig,\nim3,,\n",
    "titles of no usual word": "Bild,Klasse 1,class\nim 1,,cow|horse\nim2,,guinea pig\nim3,,\n",
    "a label a line": "im 1,cow\nim 1,horse\nim2,guinea pig\nim3,\n",
    "a label a line with titles": "file_name,label\nim 1.jpg,cow\nim 1.jpg,horse\nim2.jpg,guinea pig\nim3.jpg,\n",
    "class first": "class,image\ncow,im 1\nhorse,im 1\nguinea pig,im2\n,im3\n",
    "columns of 0 and 1": "image,cow,horse,guinea pig,sheep\nim 1,1,1,0,0\nim2,0,0,1,0\nim3,0,0,0,0\n",
    "columns of true and false": "Image,Cow,HORSE,guinea_pig\nim 1,True,True,False\nim2,False,False,True\nim3,False,False,False\n",
    "columns of crosses": "image,cow,horse,guinea pig\nim 1,x,x,\nim2,,,x\nim3,,,\n",
    "columns of 1 and -1": "image,cow,horse,guinea pig\nim 1,1,1,-1\nim2,-1,-1,1\nim3,-1,-1,-1\n",
    "columns of numbers with a point": "filename, cow, horse, guinea pig, background\nim 1,1.0,1.0,0.0,1\nim2,0.0,0.0,1.0,1\nim3,0.0,0.0,0.0,1\n",
    "tags in one field": 'image,tags\nim 1,"cow, horse"\nim2,guinea pig\nim3,""\n',
    "tags between |": "im 1,cow|horse\nim2,guinea pig\nim3,\n",
    "tags between blanks": "im 1,cow horse\nim2,guinea pig\nim3,\n",
    "tags as a list": "id,labels\nim 1,\"['cow', 'horse']\"\nim2,['guinea pig']\nim3,[]\n",
    "numbers of the masks": "image,class_id\nim 1,1,2\nim2,3\nim3,\n",
    "numbers from 0": "image,class_index\nim 1,0|1\nim2,2\nim3,\n",
    "further columns": "filename,width,height,class,xmin\nim 1.jpg,64,64,cow,3\nim 1.jpg,64,64,horse,4\nim2.jpg,64,64,guinea pig,7\nim3.jpg,64,64,,\n",
    "further columns beside 0 and 1": "image,split,width,cow,horse,guinea pig\nim 1,train,64,1,1,0\nim2,val,64,0,0,1\nim3,val,32,0,0,0\n",
    "the index of pandas": ",file_name,label\n0,im 1.jpg,cow\n1,im 1.jpg,horse\n2,im2.jpg,guinea pig\n3,im3.jpg,\n",
    "images as the index of pandas": ",labels\nim 1,cow;horse\nim2,guinea pig\nim3,\n",
    "Excel's first line": "sep=;\nim 1;cow;horse\nim2;guinea pig\nim3;\n",
    "comments and empty lines": "# photographs of May\n\nim 1,cow,horse\n\n# of June\nim2,guinea pig\nim3\n",
    "quotes": '"im 1.jpg","cow","horse"\n"im2.jpg","guinea pig"\n"im3.jpg"\n',
    "none": "im 1,cow,horse\nim2,guinea pig\nim3,none\n",
}
BLANKS = "im1.jpg cow horse\nim2.jpg   guinea pig\nim3.jpg\n"
JSON = {
    "classes by image": {"im 1.jpg": ["cow", "horse"], "im2.jpg": ["guinea pig"], "im3": []},
    "a text by image": {"im 1": "cow, horse", "im2": "guinea pig", "im3": None},
    "1 and 0 by class": {"im 1": {"cow": 1, "horse": True, "Sheep": 0}, "im2": {"guinea pig": 1}, "im3": {"cow": False}},
    "images by class": {"cow": ["im 1.jpg"], "horse": ["im 1.jpg"], "guinea pig": "im2.jpg", "Sheep": []},
    "records": [{"image": "im 1.jpg", "classes": ["cow", "horse"]}, {"image": "im2.jpg", "classes": "guinea pig"}, {"image": "im3", "classes": []}],
    "COCO": {"images": [{"id": n, "file_name": f"{i}.jpg"} for n, i in enumerate(TRUTH)],
             "categories": [{"id": 10 + n, "name": name} for n, name in enumerate(NAMES)],
             "annotations": [{"image_id": 0, "category_id": 10}, {"image_id": 0, "category_id": 10}, {"image_id": 0, "category_id": 11},
                             {"image_id": 1, "category_id": 12}]},
}


def written(text: str, separator: str = ",") -> str:
    "The text with another separator, where it is a table that has but commas."
    return text if separator == "," or ";" in text or "|" in text or '"' in text else text.replace(",", separator)


@pytest.mark.parametrize("form", TABLES)
def test_every_form_of_a_table(form, tmp_path):
    "Any separator, with a byte order mark, in UTF-16, lines of any system, and names in any case."
    path, text = tmp_path / "labels.csv", TABLES[form]
    for separator in (",", ";", "\t"):
        one = written(text, separator)
        for content in (one.encode(), one.encode("utf-8-sig"), one.replace("\n", "\r\n").encode(), one.encode("utf-16"),
                        one.rstrip("\n").encode(), one.replace("guinea pig", "Guinea Pig").replace("cow", "COW").encode()):
            path.write_bytes(content)
            table = read_label_table(path, CLASSES)
            assert {i: sorted(ids) for i, ids in table.items()} == {i: sorted(ids) for i, ids in TRUTH.items()}, (separator, content)


@pytest.mark.parametrize("form", JSON)
def test_every_form_of_json(form, tmp_path):
    path, content = tmp_path / "labels.json", JSON[form]
    texts = [json.dumps(content), "\ufeff" + json.dumps(content, indent=1).replace("\n", "\r\n"), json.dumps(content).replace("cow", "Cow")]
    if isinstance(content, list):
        texts.append("".join(json.dumps(record) + "\n" for record in content))  # a record a line
    for text in texts:
        path.write_text(text, encoding="utf-8", newline="")
        table = read_label_table(path, CLASSES)
        assert table == {i: ids for i, ids in TRUTH.items() if i in table}, text
        assert {"im 1", "im2"} <= table.keys()


def test_blanks_between_image_and_classes(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text(BLANKS, encoding="utf-8")
    assert read_label_table(path, CLASSES) == {"im1": (1, 2), "im2": (3,), "im3": ()}


AMBIGUOUS = {  # text → how it is read the first way and the second, each by typing what
    "numbers": ("a,1\nb,2\n", "image,1\na", {"image,class_id\na,1\nb,2\n": {"a": (1,), "b": (2,)}, "image,class_index\na,1\nb,2\n": {"a": (2,), "b": (3,)}}),
    "0 is background or the first class": ("a,0\nb,3\n", "", {"image,class_id\na,0\nb,3\n": {"a": (), "b": (3,)},
                                                             "image,class_index\na,0\nb,3\n": {"a": (1,), "b": (5,)}}),
    "a blank in a name": ("im cow\nim horse\n", "", {"im,cow\nim,horse\n": {"im": (1, 2)}, "image,class\nim cow\nim horse\n": {"im cow": (), "im horse": ()}}),
    "images named like classes": ("cow,horse\ncow,Sheep\n", "", {"image,class\ncow,horse\ncow,Sheep\n": {"cow": (2, 5)},
                                                               "class,image\ncow,horse\ncow,Sheep\n": {"horse": (1,), "Sheep": (1,)}}),
    "a title or an image": ("image,cow\na,horse\n", "", {"image,class\na,horse\n": {"a": (2,)}}),
    "JSON keys that are classes": ('{"cow": ["horse"]}', "", {'{"cow.jpg": ["horse"]}': {"cow": (2,)},
                                                             '[{"image": "horse", "class": "cow"}]': {"horse": (1,)}}),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_two_readings_are_asked_for(case, tmp_path):
    "The message shows both, and what it says to type is then read so."
    path, (text, _, answers) = tmp_path / "labels", AMBIGUOUS[case]
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="can be read in two ways: as .* shows .*, or as .* shows .*For the first, .*; for the second, ") as e:
        read_label_table(path, CLASSES)
    assert str(path) in str(e.value)
    for answer, table in answers.items():
        path.write_text(answer, encoding="utf-8")
        assert read_label_table(path, CLASSES) == table, answer


REFUSED = {
    "unknown classes": ("image,class\na,hrose\nb,hrose\nc,cow,gunea pig\nd,llama\n",
                        "no class for 3 names in 4 places: 'hrose' (line 2 and 1 more, near 'horse'); 'gunea pig' (line 4, near 'guinea pig'"),
    "many unknown classes": ("".join(f"im{n},zz{n}\n" for n in range(9)), "'zz4' (line 5); … and 4 more. Correct them; the classes are cow, horse"),
    "titles of other words": ("Bild,Tier\na,cow\n", "'Tier' (line 1). Correct them; the classes are cow, horse, guinea pig, Sheep. "
                              "(Read as lines of an image and its classes, separated by commas. If line 1 holds titles, write `image,class`"),
    "an unknown column of 0 and 1": ("image,cow,hrose\na,1,0\nb,0,1\n", "'hrose' (line 1, near 'horse')"),
    "columns without titles": ("a,0,1,0\nb,1,0,0\n", "no line says which class each is; begin the file with a line such as `image,cow,horse`"),
    "a column of shares": ("image,cow,horse\na,0.93,0\nb,0,1\n", "'0.93' in column 'cow' of line 2; expected 1"),
    "-1 and 0": ("image,cow,horse\na,1,-1\nb,0,1\n", "either may mean unsure"),
    "an image twice": ("a,cow,horse\na,cow\n", "names the image a twice; keep one line with all its classes"),
    "no class and a class": ("a,\na,cow\n", "a line without a class and in another line"),
    "numbers of no class": ("image,class_id\na,4\n", "'4' (line 2)"),
    "words in two ways": ("x.jpg,dining table chair\n", "can be read as dining | table | chair or as dining | table chair. Write |"),
    "a key twice": ('{"a": ["cow"], "a": ["horse"]}', "names 'a' twice in one object"),
    "0 and 1 without classes in JSON": ('{"a": [0, 1, 0, 0]}', "without the classes they stand for"),
    "broken JSON": ('{"a": ["cow"]', "not valid JSON"),
    "no JSON of labels": ('["a", "b"]', "holds list as its JSON; expected classes by image"),
    "unknown classes in JSON": ('{"a.jpg": ["cow", "hrose"]}', "one name: 'hrose' ('a.jpg', near 'horse')"),
    "Latin-1": ("a,K\xfche\n".encode("latin-1"), "not in UTF-8 (byte 3); save it in that encoding"),
    "no text": (b"PK\x03\x04\x00\x00", "not a text file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    path, (text, expected) = tmp_path / "labels.csv", REFUSED[case]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    classes = CLASSES if "dining" not in str(text) else Classes("home", ("dining", "table", "dining table", "chair", "table chair"), (1, 2, 3, 4, 5))
    with pytest.raises(InputError) as e:
        read_label_table(path, classes)
    assert expected in str(e.value) and str(path) in str(e.value)


def test_every_way_in_reads_them_alike(tmp_path, monkeypatch, capsys):
    "Prepare, verify and a training read labels.json and labels.tsv; unknown images are listed with near names."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.ini").write_text("lib_name = wilson\n", encoding="utf-8")
    source = make_farm(tmp_path / "source", n_train=10, n_val=5)
    (source / "splits").rename(source / "lists")
    for mask in (source / "SegmentationClass").glob("train0[5-9]*"):
        mask.unlink()
    labels = {f"train{n:02}.jpg": ["COW", "sheep"] for n in range(5, 10)}
    (source / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    assert run("prepare", "farm", "--from", source, "--no-verify") == 0
    assert (tmp_path / FARM / "labels.json").is_file() and "10 to train on" not in capsys.readouterr().out
    run("verify", "farm")
    assert "is labelled" not in (out := capsys.readouterr().out) and "train: " in out
    tsv = tmp_path / FARM / "labels.tsv"
    tsv.write_text("image\tclass\ntrain05\tcow\n", encoding="utf-8")
    says(refused(capsys, "verify", "farm", new_files=True), "labels.tsv and labels.json; one file of labels is read")
    (tmp_path / FARM / "labels.json").unlink()
    tsv.write_text("image\tclass\ntrian05\tcow\ntrain06\tcow\n", encoding="utf-8")
    run("verify", "farm")
    says(capsys.readouterr().out, "names 1 images that", "trian05", "Did you mean 'train05'", "`wilson verify" if False else "does not open")


def test_path_of_a_folder(tmp_path):
    with pytest.raises(InputError, match="not a regular file"):
        read_label_table(Path(tmp_path), CLASSES)
