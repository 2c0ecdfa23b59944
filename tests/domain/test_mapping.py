from __future__ import annotations

import json

import pytest

from rowmill.domain.errors import MappingError
from rowmill.domain.form import CONVERSATION, QUERY
from rowmill.domain.mapping import Feed, Mapping, Reason, column_letter, find_field, make_mapping, same_columns

from .making import field, form

NAME = field(variable="name", label="Full name", required=True)
LANG = field("select", "lang", label="Language")
FORM = form(NAME, LANG)
CHAT = form(field("paragraph", QUERY, label="Query", required=True), field(variable="name"))


def feeds(mapping):
    return [(f.variable, f.reason.value, f.column if f.constant is None else f.constant) for f in mapping.feeds]


def refusal(*args, **kwargs):
    with pytest.raises(MappingError) as caught:
        make_mapping(*args, **kwargs)
    return caught.value.code, caught.value.params


GUESSES = {
    "variables": (["name", "lang"], [("name", "variable", 0), ("lang", "variable", 1)]),
    "any order, others between": (["lang", "id", "name"], [("name", "variable", 2), ("lang", "variable", 0)]),
    "labels": (["Language", "Full name"], [("name", "label", 1), ("lang", "label", 0)]),
    "star of a required field": (["Full name *"], [("name", "label", 0)]),
    "star without a space": (["Full name*"], [("name", "label", 0)]),
    "variable before label": (["Full name", "name"], [("name", "variable", 1)]),
    "label before similar": (["full_name", "Full name"], [("name", "label", 1)]),
    "other case": (["NAME"], [("name", "similar", 0)]),
    "spaces and lines": ([" full\n name "], [("name", "similar", 0)]),
    "underline, dash, colon": (["full_na-me："], [("name", "similar", 0)]),
    "full width": (["Ｆｕｌｌ　ｎａｍｅ"], [("name", "similar", 0)]),
    "variable in brackets": (["Kunde (name)"], [("name", "similar", 0)]),
    "variable in Chinese brackets": (["姓名（name）"], [("name", "similar", 0)]),
    "variable in thick brackets": (["姓名【name】"], [("name", "similar", 0)]),
    "label with a remark": (["Full name [as in the passport]"], [("name", "similar", 0)]),
    "template header without its stamp": (["Full name * (name)"], [("name", "similar", 0)]),
    "optional field left out": (["name"], [("name", "variable", 0)]),
    "headers without a text": (["", "name", ""], [("name", "variable", 1)]),
    "double header that nobody needs": (["id", "name", "id"], [("name", "variable", 1)]),
}


@pytest.mark.parametrize(("headers", "expected"), GUESSES.values(), ids=GUESSES)
def test_guess(headers, expected):
    assert feeds(make_mapping(FORM, headers)) == expected


def test_stamp_goes_before_everything():
    mapping = make_mapping(FORM, ["name", "Kunde"], stamped={"Kunde": "name"})
    assert feeds(mapping) == [("name", "template", 1)]


def test_stamp_of_a_field_that_is_gone_does_no_harm():
    assert feeds(make_mapping(FORM, ["old", "name"], stamped={"old": "age"})) == [("name", "variable", 1)]


ASKED = {
    "header": ({"name": "Kunde"}, 1),
    "similar header": ({"name": " KUNDE "}, 1),
    "letter": ({"name": "C"}, 2),
    "field by its label": ({"Full name": "Kunde"}, 1),
    "field by a similar label": ({"full_name": "Kunde"}, 1),
    "over a better guess": ({"name": "id"}, 3),
    "a header goes before a letter": ({"name": "A"}, 4),
    "the exact one of two similar": ({"name": "kunde"}, 5),
}


@pytest.mark.parametrize(("asked", "column"), ASKED.values(), ids=ASKED)
def test_asked(asked, column):
    headers = ["name", "Kunde", "x", "id", "A", "kunde"]
    if asked == {"name": " KUNDE "}:
        headers.pop()
    assert feeds(make_mapping(FORM, headers, asked=asked)) == [("name", "asked", column)]


def test_constant():
    mapping = make_mapping(FORM, ["name", "lang"], constants={"Language": "de"})
    assert feeds(mapping) == [("name", "variable", 0), ("lang", "constant", "de")]
    assert mapping.columns_used() == {0}


def test_constant_feeds_a_required_field():
    assert feeds(make_mapping(FORM, ["x"], constants={"name": ""})) == [("name", "constant", "")]


QUESTIONS = {
    "query": (["query"], "variable"),
    "sys.query": (["sys.query"], "variable"),
    "label": (["Query"], "label"),
    "label of a template": (["Query * (sys.query)"], "similar"),
    "other case": (["QUERY"], "similar"),
}


@pytest.mark.parametrize(("headers", "reason"), QUESTIONS.values(), ids=QUESTIONS)
def test_question_of_a_chat(headers, reason):
    assert feeds(make_mapping(CHAT, headers)) == [(QUERY, reason, 0)]


TALK = form(*CHAT.fields, field(variable=CONVERSATION, label="Conversation"))
TALKS = {
    "variable": (["query", "sys.conversation", "会话"], 1),
    "the surest name first": (["query", "conversation_id", "对话", "conversation"], 3),
    "Chinese": (["query", "对话"], 1),
    "Dify's own word": (["query", "conversation_id"], 1),
    "label": (["query", "Conversation"], 1),
    "template": (["query", "Conversation (sys.conversation)"], 1),
    "similar": (["query", "CONVERSATION ID"], 1),
    "none": (["query", "talk"], None),
}


@pytest.mark.parametrize(("headers", "column"), TALKS.values(), ids=TALKS)
def test_which_column_makes_rows_the_turns_of_one_conversation(headers, column):
    found = {f.variable: f.column for f in make_mapping(TALK, headers).feeds}
    assert found.get(CONVERSATION) == column


def test_an_input_named_conversation_is_one():
    both = form(*TALK.fields, field(variable="conversation", label="Talk"))
    mapping = make_mapping(both, ["query", "conversation", "会话"])
    assert {f.variable: f.column for f in mapping.feeds} == {QUERY: 0, CONVERSATION: 2, "conversation": 1}
    assert find_field(both, "conversation").label == "Talk"
    assert find_field(TALK, "conversation_id").variable == CONVERSATION


@pytest.mark.parametrize("name", ["query", "Query", "sys.query", "QUERY"])
def test_question_asked_for(name):
    assert feeds(make_mapping(CHAT, ["Frage"], asked={name: "Frage"})) == [(QUERY, "asked", 0)]


def test_question_is_no_name_without_a_chat():
    assert find_field(FORM, "query") is None


def test_an_input_named_query_is_not_the_question():
    both = form(*CHAT.fields, field(variable="query", label="Search"))
    mapping = make_mapping(both, ["sys.query", "query"])
    assert feeds(mapping) == [(QUERY, "variable", 0), ("query", "variable", 1)]
    assert find_field(both, "query").label == "Search"
    assert refusal(both, ["query"])[0] == "query_not_mapped"


TWINS = form(field(variable="a", label="Text"), field(variable="b", label="Text"))
AMBIGUOUS = {
    "same label": (TWINS, ["Text"], []),
    "same label in other case": (TWINS, ["text"], []),
    "same label, variables in brackets": (TWINS, ["Text (b)", "Text (a)"], [("a", "similar", 1), ("b", "similar", 0)]),
    "label that is another's variable": (
        form(field(variable="title", label="Name"), field(variable="Name", label="Title")),
        ["Name"],
        [("Name", "variable", 0)],
    ),
    "similar to a label and to another's variable": (
        form(field(variable="title", label="Name"), field(variable="name", label="Title")),
        ["NAME", "TITLE"],
        [],
    ),
    "remark that names another field": (FORM, ["Full name (Language)", "name"], [("name", "variable", 1)]),
}


@pytest.mark.parametrize(("fields", "headers", "expected"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_ambiguous_header_is_not_guessed(fields, headers, expected):
    assert feeds(make_mapping(fields, headers)) == expected


def test_ambiguous_label_names_no_field():
    assert find_field(TWINS, "Text") is None
    assert refusal(TWINS, ["x"], constants={"Text": "x"}) == ("field_unknown", {"field": "Text", "fields": ("a", "b")})


REFUSALS = {
    "required field": (["x"], {}, "required_not_mapped"),
    "no headers": ([], {}, "required_not_mapped"),
    "unknown field asked": (["name"], {"asked": {"age": "name"}}, "field_unknown"),
    "unknown field constant": (["name"], {"constants": {"age": "1"}}, "field_unknown"),
    "unknown column": (["name"], {"asked": {"lang": "x"}}, "column_unknown"),
    "letter beyond the sheet": (["name"], {"asked": {"lang": "B"}}, "column_unknown"),
    "small letter": (["name"], {"asked": {"lang": "a"}}, "column_unknown"),
    "four letters": (["name"], {"asked": {"lang": "AAAA"}}, "column_unknown"),
    "only signs asked": (["name", ""], {"asked": {"lang": "-"}}, "column_unknown"),
    "variable twice": (["name", "name"], {}, "header_twice"),
    "label twice": (["Full name", "Full name *"], {}, "header_twice"),
    "similar twice": (["NAME", "Name"], {}, "header_twice"),
    "optional field's header twice": (["name", "lang", "lang"], {}, "header_twice"),
    "asked header twice": (["name", "x", "x"], {"asked": {"lang": "x"}}, "header_twice"),
    "asked header twice, nearly": (["name", "X", "x "], {"asked": {"lang": "x"}}, "header_twice"),
    "stamped header twice": (["K", "K"], {"stamped": {"K": "name"}}, "header_twice"),
}


@pytest.mark.parametrize(("headers", "wishes", "code"), REFUSALS.values(), ids=REFUSALS)
def test_refused(headers, wishes, code):
    assert refusal(FORM, headers, **wishes)[0] == code


def test_refusals_say_what_there_is():
    assert refusal(FORM, ["x", "", "y"]) == (
        "required_not_mapped",
        {"field": "Full name", "variable": "name", "columns": ("x", "y")},
    )
    assert refusal(FORM, ["name", "x", "name"]) == ("header_twice", {"header": "name", "letters": ("A", "C")})
    assert refusal(FORM, ["name"], asked={"lang": "Z"}) == ("column_unknown", {"column": "Z", "columns": ("name",)})


LISTED = {30: ("h29",), 31: ("h29", "…")}


@pytest.mark.parametrize(("count", "end"), LISTED.items(), ids=map(str, LISTED))
def test_long_lists_are_cut(count, end):
    columns = refusal(FORM, [f"h{i}" for i in range(count)])[1]["columns"]
    assert columns[:2] == ("h0", "h1")
    assert columns[-len(end) :] == end


@pytest.mark.parametrize(
    ("index", "letter"),
    [(0, "A"), (25, "Z"), (26, "AA"), (51, "AZ"), (52, "BA"), (701, "ZZ"), (702, "AAA"), (16383, "XFD")],
)
def test_letters(index, letter):
    assert column_letter(index) == letter
    headers = ["name", *[f"h{i}" for i in range(1, 16384)]]
    assert make_mapping(form(LANG), headers, asked={"lang": letter}).feeds[0].column == index


def test_json_gives_the_same_mapping_back():
    mapping = Mapping((Feed("a", Reason.ASKED, column=0), Feed("b", Reason.CONSTANT, constant="\ud83d")))
    assert Mapping.from_json(json.loads(json.dumps(mapping.to_json()))) == mapping


def test_columns_of_another_sheet_are_found_by_their_headers():
    assert same_columns(("a", "b", "", "b"), ("b", "x", "a", "b")) == [2, 0, -1, 3]
    with pytest.raises(MappingError) as raised:
        same_columns(("a", "b", "b", "c"), ("a", "b"))
    assert raised.value.params == {"missing": ("b", "c"), "columns": ("a", "b")}


def test_a_mapping_moves_with_its_columns():
    feeds = Mapping((Feed("q", Reason.LABEL, column=1), Feed("lang", Reason.CONSTANT, constant="zh")))
    assert feeds.moved([3, 0]).feeds == (Feed("q", Reason.LABEL, column=0), feeds.feeds[1])
    with pytest.raises(MappingError, match="append_headers"):
        feeds.moved([3, -1])
