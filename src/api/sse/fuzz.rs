use serde_json::{Value, json};

use super::*;
use crate::fuzzing;

/// The events of a stream, as the HTML standard has a client read them: name and data.
fn read(stream: &str) -> Vec<(String, String)> {
    let text = stream.strip_prefix('\u{feff}').unwrap_or(stream).replace("\r\n", "\n").replace('\r', "\n");
    let (mut events, mut name, mut data) = (Vec::new(), String::new(), None::<String>);
    for line in text.split_terminator('\n') {
        if line.is_empty() {
            if let Some(data) = data.take() {
                events.push((std::mem::take(&mut name), data));
            }
            name.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut name),
            "data" => {
                data = Some(match data {
                    None => value.to_owned(),
                    Some(said) => said + "\n" + value,
                });
            }
            // A comment, or nothing that we write.
            "" => {}
            other => panic!("a field {other:?}"),
        }
    }
    assert_eq!((name.as_str(), data), ("", None), "an event has no end");
    events
}

/// Whatever is written is read as what it was, in its order.
#[test]
fn fuzz_sse() {
    let names = [None, Some("response.output_text.delta"), Some("error")];
    fuzzing::bytes("sse", &[], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let mut frames = Frames::default();
        let mut expected = Vec::new();
        for (part, name) in text.split('|').zip(names.into_iter().cycle()) {
            let data = json!({"delta": part, part: [part]});
            frames.event(name, &data);
            frames.comment();
            expected.push((name.unwrap_or_default().to_owned(), data));
        }
        frames.done();
        let written = frames.take();
        let mut events = read(std::str::from_utf8(&written).expect("UTF-8"));
        assert_eq!(events.pop(), Some((String::new(), "[DONE]".to_owned())));
        let events: Vec<(String, Value)> = events
            .into_iter()
            .map(|(name, data)| (name, serde_json::from_str(&data).expect("JSON")))
            .collect();
        assert_eq!(events, expected);
        // Each frame is whole by itself: a proxy may cut between any two.
        assert!(written.split_inclusive(|byte| *byte == b'\n').all(|line| line.ends_with(b"\n")));
    });
}
