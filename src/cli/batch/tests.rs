use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::output::{Line, Output};
use super::source::{Columns, Row, Settings, Source};
use super::template::{Template, Text};
use super::*;
use crate::api::batch_line::{Answered, Outcome};

fn written(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn filled(template: &str, pairs: &[(&'static str, &'static str)]) -> anyhow::Result<String> {
    Text::parse(template)?
        .fill(&|name| pairs.iter().find(|(given, _)| *given == name).map(|(_, value)| *value))
}

fn rows(source: &Source) -> Vec<Row> {
    source.open().unwrap().collect::<anyhow::Result<_>>().unwrap()
}

fn body(row: &Row) -> Value {
    serde_json::from_str(&row.body).unwrap()
}

#[test]
fn places_are_filled_and_values_are_never_templates() {
    let pairs = [("a", "{{b}}"), ("b", "B\"\n")];
    assert_eq!(filled("x {{a}}, {{ b }}!", &pairs).unwrap(), "x {{b}}, B\"\n!");
    assert_eq!(filled(r"\{{a}} {{a}} {", &pairs).unwrap(), "{{a}} {{b}} {");
    assert!(filled("{{c}}", &pairs).unwrap_err().to_string().contains("no column `c`"));
    for (wrong, why) in [("one\n{{a", "line 2"), ("{{}}", "names no column"), ("{{a\nb}}", "names no column")]
    {
        assert!(Text::parse(wrong).unwrap_err().to_string().contains(why), "{wrong}");
    }
}

#[test]
fn a_table_becomes_requests() {
    let folder = tempfile::tempdir().unwrap();
    let table = written(folder.path(), "rows.csv", "id,text\nfirst,\"a \"\"b\"\",\nc\"\n,plain\n");
    let settings = Settings {
        model: Some("m".into()),
        effort: Some("low".into()),
        instructions: Some("Be brief.".into()),
        schema: Some(json!({"type": "json_schema"})),
    };
    let template = Template::prompt("Say: {{text}}\n").unwrap();
    let source = Source::rows(table, Columns::Csv, template, settings).unwrap();
    let rows = rows(&source);
    let ids: Vec<_> = rows.iter().map(|row| (row.custom_id.as_str(), row.url.as_str())).collect();
    assert_eq!(ids, [("first", "/v1/responses"), ("row-2", "/v1/responses")]);
    assert_eq!(
        body(&rows[0]),
        json!({"input": "Say: a \"b\",\nc", "model": "m", "instructions": "Be brief.",
            "reasoning": {"effort": "low"}, "text": {"format": {"type": "json_schema"}}, "store": false})
    );
    assert_eq!(check(&source).unwrap(), 2);
}

#[test]
fn a_body_is_a_template_too() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "{\"q\": \"say \\\"hi\\\"\", \"n\": 7, \"id\": \"x\"}\n\n{\"q\": \"b\", \"n\": null}\n";
    let table = written(folder.path(), "rows.jsonl", lines);
    let template = r#"{"messages": [{"role": "user", "content": "{{q}} {{n}}"}], "n": 1}"#;
    let template = || Template::body(template).unwrap();
    let source = Source::rows(table.clone(), Columns::JsonLines, template(), Settings::default()).unwrap();
    let rows = rows(&source);
    assert_eq!((rows[0].url.as_str(), rows[1].custom_id.as_str()), ("/v1/chat/completions", "row-2"));
    assert_eq!(body(&rows[0])["messages"][0]["content"], "say \"hi\" 7");
    assert_eq!(body(&rows[1]), json!({"messages": [{"role": "user", "content": "b "}], "n": 1}));
    let settings = Settings { effort: Some("low".into()), ..Settings::default() };
    assert!(Source::rows(table, Columns::JsonLines, template(), settings).is_err());
    assert!(Template::body("[]").is_err() && Template::body(r#"{"stream": true}"#).is_err());
}

#[test]
fn what_is_wrong_with_the_rows_is_told_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let told = |source: &Source| format!("{:#}", check(source).unwrap_err());
    let table = written(folder.path(), "rows.csv", "id,text\na,1\na,2\nb\n");
    let source = |template: &str, columns, path: &PathBuf| {
        let template = Template::prompt(template).unwrap();
        Source::rows(path.clone(), columns, template, Settings::default()).unwrap()
    };
    assert!(
        told(&source("{{test}}", Columns::Csv, &table))
            .contains("`test`, which is no column; there are: id, text")
    );
    let both = told(&source("{{text}}", Columns::Csv, &table));
    assert!(both.contains("line 3: its custom_id") && both.contains("line: 4"), "{both}");
    let lines = written(folder.path(), "rows.jsonl", "{\"text\": \"a\"}\n[]\n{\"other\": 1}\n");
    let both = told(&source("{{text}}", Columns::JsonLines, &lines));
    assert!(
        both.contains("line 2: it is no JSON object") && both.contains("line 3: the row has no column"),
        "{both}"
    );
    let requests = written(folder.path(), "batch.jsonl", "{\"custom_id\": \"a\"}\n");
    assert!(told(&Source::requests(requests)).contains("line 1: Missing required parameter: 'method'"));
    let nothing = written(folder.path(), "empty.jsonl", "\n\n");
    assert!(told(&Source::requests(nothing)).contains("has no rows"));
}

fn line(id: &str, status_code: u16) -> Line {
    let body = json!({"usage": {"input_tokens": 2, "output_tokens": 1}});
    let answered = Answered { status_code, request_id: "req_1".into(), body };
    Line { outcome: Outcome::answered(id.into(), answered), parsed: None }
}

#[test]
fn an_output_is_gone_on_with_and_its_torn_end_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let mut output = Output::open(&path, false).unwrap();
    output.add(&[line("a", 200), line("b", 400)]).unwrap();
    assert!(Output::open(&path, true).unwrap_err().to_string().contains("another run"));
    drop(output);
    assert!(Output::open(&path, false).unwrap_err().to_string().contains("--resume"));
    let whole = std::fs::read(&path).unwrap();
    std::fs::File::options().append(true).open(&path).unwrap().write_all(b"{\"custom_id\": \"c").unwrap();
    let mut output = Output::open(&path, true).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    assert_eq!((output.ids.len(), output.failed, output.used.input_tokens), (2, 1, 4));
    output.add(&[line("c", 200)]).unwrap();
    drop(output);
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
    let broken = [b"no result\n".as_slice(), &whole].concat();
    let broken = written(folder.path(), "broken.jsonl", broken);
    assert!(format!("{:#}", Output::open(&broken, true).unwrap_err()).contains("line 1"));
}

#[test]
fn a_bridge_is_where_it_is_configured_to_listen() {
    let at = |host: &str, port| {
        let mut config = Config::default();
        (config.server.host, config.server.port) = (host.into(), port);
        listening(&config).map(|url| url.to_string())
    };
    assert_eq!(at("127.0.0.1", 8787).unwrap(), "http://127.0.0.1:8787/v1");
    assert_eq!(at("0.0.0.0", 1).unwrap(), "http://127.0.0.1:1/v1");
    assert_eq!(at("[::1]", 2).unwrap(), "http://[::1]:2/v1");
    assert!(at("127.0.0.1", 0).is_err());
}
