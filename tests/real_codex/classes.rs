//! Task classes of the owner's own, as far as they reach the model.

use std::time::Duration;

use codex_bridge::config::ClassConfig;
use serde_json::{Value, json};

use crate::world::{FACES, World, bare, chat, user};

#[tokio::test]
async fn a_configured_class_reaches_the_model_and_nothing_else_does() {
    for face in FACES {
        let configure = |classes: &mut std::collections::BTreeMap<String, ClassConfig>| {
            let own = ClassConfig {
                effort: vec!["no_such_effort".into()],
                instruction_prefix: Some("Answer with one word.".into()),
                model: Some("alias".into()),
                ..ClassConfig::default()
            };
            let hasty = ClassConfig { deadline: Some(Duration::from_millis(1500)), ..ClassConfig::default() };
            classes.extend([("own".into(), own), ("hasty".into(), hasty)]);
        };
        let world = World::configured(face, |config, _| {
            configure(&mut config.classes.0);
            config.models.aliases.insert("alias".into(), "gpt-5.5".into());
        })
        .await;
        assert!(world.models().await.contains(&"gpt-5.5".to_owned()));
        let client = world.client.clone().with_header("x-codex-bridge-task-class", "own");
        let client = client.with_header("x-codex-bridge-trace", "1");
        let prefix = |text: &str| json!({"type": "message", "role": "developer", "content": [{"type": "input_text", "text": text}]});
        let with_instructions = json!({"input": "mark-1", "instructions": "Be brief."});
        for (path, body, expected) in [
            ("/v1/responses", json!({"input": "mark-1"}), "Answer with one word."),
            ("/v1/responses", with_instructions, "Answer with one word.\n\nBe brief."),
            ("/v1/chat/completions", chat("mark-1"), "Answer with one word."),
        ] {
            world.standin.clear_requests();
            let answer = client.post(path, &body).await.ok();
            let seen = world.seen_with("mark-1").pop().expect("it reached the model");
            assert_eq!(bare(&seen.input), json!([prefix(expected), user("mark-1")]), "{face:?} {path}");
            assert_eq!(seen.body["model"], "gpt-5.5");
            let told = &answer["bridge"]["trace"]["task_class"];
            assert_eq!((&told["set"], &told["skipped"]), (&json!({"model": "alias"}), &json!(["effort"])));
            assert_eq!(told["instruction_prefix"], "classes.own.instruction_prefix");
        }

        let hasty = world.client.clone().with_header("x-codex-bridge-task-class", "hasty");
        assert_eq!(
            hasty.post("/v1/chat/completions", &chat("FAIL stall")).await.failure(),
            (504, "timeout".into())
        );
        let classes = world.client.get("/v1/health").await.ok()["task_classes"].clone();
        let counted = |name: &str| -> Vec<Value> {
            ["calls", "failures", "abandoned"].map(|figure| classes[name][figure].clone()).to_vec()
        };
        assert_eq!(
            (counted("own"), counted("hasty")),
            (vec![json!(3), json!(0), json!(0)], vec![json!(1), json!(1), json!(0)])
        );
        assert_eq!(classes["hasty"]["latency_ms"][3]["count"], 0);
        world.end().await;
    }
}
