"""Go templates: what they make, and Go's words for what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli.columns import aligned, width
from sampan.cli.output import Row, duration, title_of
from sampan.cli.template import Template, TemplateError
from sampan.cli.template.printing import printf

VALUE: dict[str, Any] = {
    "Name": "/web", "Pid": 42, "Share": 0.25, "Running": True, "Dead": False, "Error": "", "Health": None,
    "Labels": {"b": "2", "a": "1"}, "Env": ["A=b", "C=d"], "Ports": {"80/tcp": [{"HostPort": "8080"}], "90/tcp": None},
    "State": {"Status": "running", "Deep": {"er": 1}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain {{.Name}} text", "plain /web text"),
        ("{{.Pid}} {{.Share}} {{.Running}} {{.Error}} {{.Health}}", "42 0.25 true  <no value>"),
        ("{{.State.Status}} {{.State.Deep.er}} {{(.State).Status}}", "running 1 running"),
        ("{{.Labels}} {{.Env}} {{.State}}", "map[a:1 b:2] [A=b C=d] map[Deep:map[er:1] Status:running]"),
        ("{{json .Labels}} {{json .Name}} {{json .Health}}", '{"b":"2","a":"1"} "/web" null'),
        ("{{if .Running}}up{{else}}down{{end}}", "up"),
        ("{{if .Dead}}dead{{else if .Health}}ill{{else if .Pid}}well{{else}}?{{end}}", "well"),
        ("{{if not (and .Running .Dead)}}a{{end}}{{if or .Dead .Pid}}b{{end}}{{or .Error 7}}{{and .Pid .Name}}", "ab7/web"),
        ("{{range .Env}}[{{.}}]{{end}}", "[A=b][C=d]"),
        ("{{range $i, $e := .Env}}{{if $i}}, {{end}}{{$i}}:{{$e}}{{end}}", "0:A=b, 1:C=d"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "a=1;b=2;"),
        ("{{range $p, $c := .Ports}}{{$p}}->{{range $c}}{{.HostPort}}{{else}}none{{end}} {{end}}", "80/tcp->8080 90/tcp->none "),
        ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
        ("{{range .Env}}{{if eq . \"A=b\"}}{{continue}}{{end}}{{.}}{{break}}{{end}}", "C=d"),
        ("{{range $n := 3}}{{$n}}{{end}}{{range .Health}}x{{else}}nothing{{end}}", "012nothing"),
        ("{{with .State}}{{.Status}} {{$.Name}}{{end}}{{with .Health}}x{{else with .Pid}}{{.}}{{else}}y{{end}}", "running /web42"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{$y := 3}}{{$y}}{{end}}{{$x}}", "32"),
        ("{{define \"a\"}}<{{.}}>{{end}}{{template \"a\" .Pid}}{{block \"b\" .Name}}({{.}}){{end}}", "<42>(/web)"),
        ("a {{- .Pid -}} b {{- /* said */ -}} c", "a42bc"),
        ("{{.Name | printf \"%s-%s\" \"x\" | upper | printf \"%q\"}}", '"X-/WEB"'),
        ("{{eq .Pid 41 42}} {{ne .Pid 1}} {{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 2 3}}", "true true true true false false"),
        ("{{len .Env}} {{len .Labels}} {{len \"é\"}} {{index .Env 1}} {{slice .Name 1 3}} {{slice .Env 1}}", "2 2 2 C=d we [C=d]"),
        ("{{index .Labels \"nope\"}}|{{index .State \"nope\"}}", "|<no value>"),
        ("{{join .Env \",\"}} {{split \"a:b\" \":\"}} {{title \"ab cd\"}} {{lower \"AB\"}} {{pad \"x\" 1 2}}|{{truncate \"abcdef\" 3}}",
         "A=b,C=d [a b] Ab Cd ab  x  |abc"),
        ("{{print 1 2 \"a\" 3 4}} {{println \"x\" 1}}", "1 2a3 4 x 1\n"),
        ("{{html \"<a>\"}} {{js \"it's\"}} {{urlquery \"a b&c\"}}", "&lt;a&gt; it\\'s a+b%26c"),
        ("{{'a'}} {{0x10}} {{1e3}} {{`raw\\n`}} {{\"\\u00e9\\t|\"}} {{-3}} {{true}}", "97 16 1000 raw\\n é\t| -3 true"),
    ],
)  # fmt: skip
def test_render(source: str, expected: str) -> None:
    assert Template(source).render(VALUE) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{.Name", "template: :1: unclosed action"),
        ("a\n{{nope .Name}}", 'template: :2: function "nope" not defined'),
        ("{{if .Name}}x", "template: :1: unexpected EOF"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("{{$x}}", 'template: :1: undefined variable "$x"'),
        ("{{}}", "template: :1: missing value for command"),
        ("{{break}}", "template: :1: {{break}} outside {{range}}"),
        ("{{(.Name}}", "template: :1: unclosed left paren"),
        ('{{"abc}}', "template: :1: unterminated quoted string"),
        ("{{/* x }}", "template: :1: unclosed comment"),
        ("{{.Nope}}", 'template: :1:2: executing "" at <.Nope>: map has no entry for key "Nope"'),
        ("{{.State.Nope}}", 'template: :1:8: executing "" at <.State.Nope>: map has no entry for key "Nope"'),
        ("{{.Pid.X}}", "can't evaluate field X in type"),
        ("{{index .Env 9}}", "at <index .Env 9>: error calling index: index out of range: 9"),
        ("{{len .Pid}}", "error calling len: len of type int"),
        ('{{eq .Pid "42"}}', "incompatible types for comparison"),
        ("{{json}}", "wrong number of args for json: want 1 got 0"),
        ("{{.Name 1}}", ".Name is not a method but has arguments"),
        ("{{range .Name}}{{end}}", "range can't iterate over /web"),
        ('{{template "nope"}}', 'template "nope" not defined'),
        ('{{define "a"}}{{template "a"}}{{end}}{{template "a"}}', "exceeded maximum template depth"),
    ],
)
def test_mistakes(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(source).render(VALUE)
    assert message in str(caught.value)


def test_rows_have_methods_and_a_kind() -> None:
    row = Row({"ID": "1"}, "*formatter.ContainerContext", {"a.b": "c"})
    assert Template('{{.ID}}{{.Label "a.b"}}{{.Label "x"}}').render(row) == "1c"
    with pytest.raises(TemplateError, match="evaluate field Foo in type"):
        Template("{{.Foo}}").render(row)


@pytest.mark.parametrize(
    ("form", "values", "expected"),
    [
        ("%d|%5d|%-5d|%05d|%+d|%x|%X|%#x|%o|%b|%c|%U", [7, 7, 7, -7, 7, 255, 255, 255, 8, 5, 97, 97], "7|    7|7    |-0007|+7|ff|FF|0xff|10|101|a|U+0061"),
        ("%s|%6s|%-6s|%.2s|%q|%x|%v|%T", ["ab", "ab", "ab", "abc", 'a"\n', "ab", "ab", "ab"], 'ab|    ab|ab    |ab|"a\\"\\n"|6162|ab|string'),
        ("%f|%.2f|%8.3f|%e|%g|%v", [1.5, 1.5, 1.5, 1.5, 1e21, 1e-7], "1.500000|1.50|   1.500|1.500000e+00|1e+21|1e-07"),
        ("%t %v %v %s", [True, None, ["a", 1], ["x", "y"]], "true <nil> [a 1] [x y]"),
        ("%d %s", ["x", 5], "%!d(string=x) %!s(int=5)"),
        ("%d %d", [1], "1 %!d(MISSING)"),
        ("%d", [1, "a"], "1%!(EXTRA string=a)"),
        ("100%% %*d %", [4, 2], "100%    2 %!(NOVERB)"),
    ],
)  # fmt: skip
def test_printf(form: str, values: list[Any], expected: str) -> None:
    assert printf(form, *values) == expected


@given(st.text(alphabet='{}.|$:="ab ()-/*`%1', max_size=24))
def test_any_text_is_rendered_or_refused(source: str) -> None:
    try:
        Template(source).render({"a": 1, "b": "x"})
    except TemplateError:
        pass


def test_columns() -> None:
    assert aligned("A\tB\tC\n1\t2\t3") == "A         B         C\n1         2         3"
    assert aligned("LONGER THAN\tB\nx\ty") == "LONGER THAN   B\nx             y"
    assert aligned("日本\tx\nab\ty") == "日本      x\nab        y"
    assert aligned("no tab\na\tb") == "no tab\na         b"
    assert (width("日本"), width("e\u0301"), width("ab")) == (4, 1, 2)


def test_titles_and_durations() -> None:
    assert [title_of(name) for name in ("LocalVolumes", "ID", "Name", "CreatedAt", "IPv6")] == [
        "LOCAL VOLUMES",
        "ID",
        "NAME",
        "CREATED AT",
        "IPV6",
    ]
    known = {0.2: "Less than a second", 1: "1 second", 59: "59 seconds", 60: "About a minute", 150: "2 minutes", 3600: "About an hour",
             7200: "2 hours", 172800: "2 days", 86400 * 20: "2 weeks", 86400 * 70: "2 months", 86400 * 800: "2 years"}  # fmt: skip
    assert {age: duration(age) for age in known} == known
