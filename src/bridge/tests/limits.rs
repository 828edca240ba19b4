//! A token limit, stop sequences, and answers that the backend itself ends early.

use serde_json::json;

use super::scene::{Scene, after, ask, function, texts, told};
use crate::app_server::testing::bounded;
use crate::model::{IncompleteReason, ToolChoice, TurnRequest};

fn at_most(tokens: u64) -> TurnRequest {
    TurnRequest { max_output_tokens: Some(tokens), ..ask("count") }
}

fn until(stop: &str) -> TurnRequest {
    TurnRequest { stop: vec![stop.into()], ..ask("count") }
}

#[tokio::test(start_paused = true)]
async fn past_the_token_limit_the_turn_is_interrupted_and_the_answer_incomplete() {
    let scene = Scene::new(|_| {});
    let request = at_most(3);
    let first = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    running.begin("m").delta("m", "one two").delta("m", " three four").delta("m", " five six");
    let (text, outcome) = told(turn).await;
    let outcome = outcome.unwrap();
    assert_eq!(text, "one two three");
    assert_eq!(outcome.incomplete, Some(IncompleteReason::MaxOutputTokens));
    assert_eq!(texts(&outcome), ["one two three"]);
    assert_eq!((outcome.output[0].str("status"), outcome.output[0].id()), (Some("incomplete"), Some("m")));
    let usage = outcome.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.total_tokens), (1, 3, 4));
    assert_eq!(scene.nth("turn/interrupt", 1).await["turnId"], running.turn);
    scene.nth("thread/unsubscribe", 1).await;

    // What was cut is what the conversation holds from now on.
    let (turn, running) = scene.start(after(&first, "go on")).await;
    let items = scene.items(&running.thread);
    assert_eq!(
        items.iter().map(|item| item["role"].as_str().unwrap()).collect::<Vec<_>>(),
        ["user", "assistant", "user"]
    );
    assert_eq!(items[1]["content"][0]["text"], "one two three");
    running.say("on");
    assert!(told(turn).await.1.is_ok());
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_backend_counted_before_the_cut_stays() {
    let scene = Scene::new(|_| {});
    let (turn, running) = scene.start(at_most(5)).await;
    // The app-server answers the call by itself and goes on.
    running.message("a", "one two").call("c1", "made_up").response("resp_1", 10, 4);
    running.begin("m").delta("m", "three four").delta("m", " five six seven");
    let usage = told(turn).await.1.unwrap().usage.unwrap();
    // Its second upstream response had the question and the first message for input.
    assert_eq!((usage.input_tokens, usage.output_tokens), (10 + 1 + 2, 4 + 3));
    assert_eq!(usage.total_tokens, 20);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn tools_that_the_choice_takes_away_count_nothing() {
    let scene = Scene::new(|_| {});
    let request = TurnRequest { tools: vec![function("look")], tool_choice: ToolChoice::None, ..at_most(3) };
    let (turn, running) = scene.start(request).await;
    running.begin("m").delta("m", "one two").delta("m", " three four").delta("m", " five six");
    assert_eq!(told(turn).await.1.unwrap().usage.unwrap().input_tokens, 1);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_just_fits_is_whole_and_keeps_its_usage() {
    let scene = Scene::new(|_| {});
    let (turn, running) = scene.start(at_most(3)).await;
    running.say("one two three");
    let (text, outcome) = told(turn).await;
    let outcome = outcome.unwrap();
    assert_eq!((text.as_str(), outcome.incomplete), ("one two three", None));
    assert_eq!(outcome.usage.unwrap().total_tokens, 5);
    assert!(scene.seen("turn/interrupt").is_empty());
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_sequence_ends_the_answer_and_no_part_of_it_leaks() {
    let scene = Scene::new(|_| {});
    let (turn, running) = scene.start(until("STOP")).await;
    running.begin("m").delta("m", "one ST").delta("m", "AND S").delta("m", "TOP two");
    let (text, outcome) = told(turn).await;
    let outcome = outcome.unwrap();
    assert_eq!((text.as_str(), outcome.incomplete), ("one STAND ", None));
    assert_eq!(texts(&outcome), ["one STAND "]);
    assert_eq!(outcome.output[0].str("status"), Some("completed"));
    scene.nth("turn/interrupt", 1).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_stop_sequence_at_the_end_belongs_to_the_answer() {
    let scene = Scene::new(|_| {});
    let (turn, running) = scene.start(until("STOP")).await;
    running.say("one STO");
    let (text, outcome) = told(turn).await;
    assert_eq!((text.as_str(), texts(&outcome.unwrap())), ("one STO", vec!["one STO".to_owned()]));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_rules_hold_for_text_that_was_never_streamed() {
    let scene = Scene::new(|_| {});
    for (request, expected) in [(at_most(2), "one two"), (until(" three"), "one two")] {
        let (turn, running) = scene.start(request).await;
        running.message("m", "one two three").response("resp_u", 9, 9).completed();
        let outcome = bounded(turn.outcome()).await.unwrap();
        assert_eq!(texts(&outcome), [expected]);
        assert_eq!(outcome.usage.unwrap().output_tokens, 2);
    }
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_is_the_whole_answers_and_a_retry_does_not_count_twice() {
    let scene = Scene::new(|_| {});
    let (turn, running) = scene.start(at_most(4)).await;
    running.begin("a").delta("a", "one two").message("a", "one two");
    let failure = json!({"message": "cut", "codexErrorInfo": "other", "additionalDetails": null});
    running.begin("b").delta("b", " three").tell("error", json!({"error": failure, "willRetry": true}));
    running.begin("b").delta("b", " three").delta("b", " four").delta("b", " five six seven eight");
    let (text, outcome) = told(turn).await;
    assert_eq!(text, "one two three four");
    assert_eq!(texts(&outcome.unwrap()), ["one two", " three four"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_nobody_saw_is_ruled_from_its_own_beginning() {
    let scene = Scene::new(|_| {});
    let (turn, running) = scene.start(at_most(3)).await;
    let outcome = async {
        let whole = turn.outcome();
        tokio::pin!(whole);
        // The client must have said that it wants the end alone.
        assert!(futures_util::poll!(whole.as_mut()).is_pending());
        let failure = json!({"message": "cut", "codexErrorInfo": "other", "additionalDetails": null});
        running.begin("a").delta("a", "uno dos").tell("error", json!({"error": failure, "willRetry": true}));
        running.say("one two three");
        whole.await
    };
    assert_eq!(texts(&bounded(outcome).await.unwrap()), ["one two three"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_backend_itself_ends_early_is_incomplete() {
    let scene = Scene::new(|_| {});
    for (reason, expected) in [
        ("max_output_tokens", IncompleteReason::MaxOutputTokens),
        ("content_filter", IncompleteReason::ContentFilter),
    ] {
        let request = ask("hi");
        let first = request.response_id.clone();
        let (turn, running) = scene.start(request).await;
        running.begin("m").delta("m", "half of");
        running.failed(&format!("Incomplete response returned, reason: {reason}"));
        let (text, outcome) = told(turn).await;
        let outcome = outcome.unwrap();
        assert_eq!((text.as_str(), outcome.incomplete), ("half of", Some(expected)));
        assert_eq!(texts(&outcome), ["half of"]);
        let usage = outcome.usage.unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens), (1, 2), "the backend gave none");

        let (turn, running) = scene.start(after(&first, "go on")).await;
        assert_eq!(scene.items(&running.thread)[1]["content"][0]["text"], "half of");
        running.say("on");
        assert!(told(turn).await.1.is_ok());
    }
    let (turn, running) = scene.start(ask("hi")).await;
    running.failed("Incomplete response returned, reason: bad luck");
    assert!(told(turn).await.1.is_err());
    scene.end().await;
}
