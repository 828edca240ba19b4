use std::time::Duration;

use http::HeaderValue;
use serde_json::json;

use super::figures::Fate;
use super::*;
use crate::model::{Priority, Usage};

fn classes(configure: impl FnOnce(&mut ClassConfig)) -> Classes {
    let mut class = ClassConfig::default();
    configure(&mut class);
    Classes::new(&ClassesConfig(BTreeMap::from([("own".into(), class)])))
}

fn metadata(class: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(MEMBER.into(), class.into())])
}

/// Model, verbosity and output limit of a request.
type Said<T> = (Option<T>, Option<&'static str>, Option<u64>);

/// What a request that says `said` has then.
fn chosen(classes: &Classes, said: Said<&str>) -> (Chosen, Said<String>) {
    let (mut model, mut verbosity, mut max_output_tokens) = (said.0.map(str::to_owned), said.1, said.2);
    let silent =
        Silent { model: &mut model, verbosity: &mut verbosity, max_output_tokens: &mut max_output_tokens };
    let allowed = |name: &str| name != "forbidden";
    let chosen = classes.choose(Some("own"), &BTreeMap::new(), allowed, silent).unwrap().unwrap();
    (chosen, (model, verbosity, max_output_tokens))
}

#[test]
fn defaults_go_where_the_request_is_silent() {
    let classes = classes(|class| {
        class.model = Some("m".into());
        class.verbosity = Some("low");
        class.max_output_tokens = Some(7);
    });
    let (of_silent, said) = chosen(&classes, (None, None, None));
    assert_eq!(said, (Some("m".into()), Some("low"), Some(7)));
    let told = serde_json::to_value(of_silent.told()).unwrap();
    assert_eq!(
        told,
        json!({"name": "own", "source": "header", "skipped": [], "instruction_prefix": null,
            "set": {"model": "m", "verbosity": "low", "max_output_tokens": 7}})
    );
    let (of_explicit, said) = chosen(&classes, (Some("x"), Some("high"), Some(99)));
    assert_eq!(said, (Some("x".into()), Some("high"), Some(99)));
    assert!(of_explicit.told().set.is_empty());
}

#[test]
fn a_model_that_the_key_may_not_have_is_no_default() {
    let classes = classes(|class| class.model = Some("forbidden".into()));
    for (asked, skipped) in [(None, &["model"][..]), (Some("mine"), &[])] {
        let (chosen, (model, ..)) = chosen(&classes, (asked, None, None));
        assert_eq!((model.as_deref(), &chosen.told().skipped[..]), (asked, skipped));
        assert!(chosen.told().set.is_empty());
    }
}

#[test]
fn of_deadline_and_priority_the_lower_counts() {
    let batch = classes(|class| {
        class.deadline = Some(Duration::from_secs(5));
        class.priority = Some(Priority::Batch);
    });
    let quick = classes(|class| class.priority = Some(Priority::Interactive));
    let (batch, quick) = (chosen(&batch, (None, None, None)).0, chosen(&quick, (None, None, None)).0);
    for (deadline, expected) in [(None, 5), (Some(3), 3), (Some(9), 5)] {
        let mut request = TurnRequest::new(Vec::new());
        request.deadline = deadline.map(Duration::from_secs);
        batch.complete(&mut request);
        assert_eq!(request.deadline, Some(Duration::from_secs(expected)));
        assert_eq!(request.priority, Priority::Batch);
        quick.complete(&mut request);
        assert_eq!(
            (request.priority, request.deadline),
            (Priority::Batch, Some(Duration::from_secs(expected)))
        );
    }
}

#[test]
fn a_prefix_goes_before_the_instructions_and_is_named() {
    let with = classes(|class| class.instruction_prefix = Some("Be brief.".into()));
    let (with, _) = chosen(&with, (None, None, None));
    assert_eq!(with.told().instruction_prefix.as_deref(), Some("classes.own.instruction_prefix"));
    for (said, expected) in [(None, "Be brief."), (Some("Say hi."), "Be brief.\n\nSay hi.")] {
        let mut request = TurnRequest::new(Vec::new());
        request.instructions = said.map(str::to_owned);
        with.complete(&mut request);
        assert_eq!(request.instructions.as_deref(), Some(expected));
    }
    let (without, _) = chosen(&classes(|_| {}), (None, None, None));
    let mut request = TurnRequest::new(Vec::new());
    without.complete(&mut request);
    assert_eq!((request.instructions, request.task_class), (None, Some(TaskClass::new("own"))));
}

#[test]
fn the_header_wins_and_an_unknown_name_is_refused() {
    let classes = classes(|_| {});
    let named = |header, body: Option<&str>| {
        let metadata = body.map(metadata).unwrap_or_default();
        let class = classes.named(header, &metadata).map(|class| class.map(|class| class.id.to_string()));
        class.map_err(|error| (error.code.unwrap(), error.param.unwrap(), error.message))
    };
    assert_eq!(named(None, None).unwrap(), None);
    assert_eq!(named(None, Some("own")).unwrap().as_deref(), Some("own"));
    assert_eq!(named(Some("own"), Some("other")).unwrap().as_deref(), Some("own"));
    for (header, body, param) in [
        (None, Some("other"), "metadata.task_class"),
        (None, Some(""), "metadata.task_class"),
        (Some("other"), Some("own"), X_TASK_CLASS),
        (Some("Own"), None, X_TASK_CLASS),
    ] {
        let (code, named, message) = named(header, body).unwrap_err();
        assert_eq!((code.as_str(), named.as_str()), ("unknown_task_class", param));
        assert!(message.contains("There are: 'own'.") && !message.contains("other"), "{message}");
    }
}

#[test]
fn a_head_names_one_class_or_none_that_is_known() {
    let read = |values: &[&[u8]]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(X_TASK_CLASS, HeaderValue::from_bytes(value).unwrap());
        }
        header(&headers)
    };
    assert_eq!(read(&[]), None);
    assert_eq!(read(&[b"own"]).as_deref(), Some("own"));
    assert_eq!(read(&[b"own", b"own"]).as_deref(), Some("own"));
    for unusable in [&[&b"own"[..], b"other"][..], &[b"\xff"], &[b""]] {
        assert_eq!(read(unusable).as_deref(), Some(""));
    }
}

#[test]
fn calls_are_counted_by_their_class() {
    let classes = classes(|_| {});
    let (chosen, _) = chosen(&classes, (None, None, None));
    let usage = |input_tokens| Usage { input_tokens, output_tokens: 1, ..Usage::default() };
    let figures = chosen.figures();
    figures.add(Fate::Answered, [usage(10), usage(20)].into_iter(), Duration::from_millis(100));
    figures.add(Fate::Failed, std::iter::empty(), Duration::from_millis(101));
    figures.add(Fate::Abandoned, std::iter::empty(), Duration::from_secs(3600));
    let report = serde_json::to_value(classes.report()).unwrap();
    let own = &report["own"];
    assert_eq!((&own["calls"], &own["failures"], &own["abandoned"]), (&json!(3), &json!(1), &json!(1)));
    assert_eq!((&own["input_tokens"], &own["output_tokens"]), (&json!(30), &json!(2)));
    assert_eq!(own["latency_ms_sum"], 3_600_201);
    let counts: Vec<_> =
        own["latency_ms"].as_array().unwrap().iter().map(|bucket| &bucket["count"]).collect();
    assert_eq!((counts[0], counts[1], counts[11], counts[12]), (&json!(1), &json!(2), &json!(2), &json!(3)));
    assert_eq!(own["latency_ms"][12]["le"], json!(null));
}
