//! Sizes and floods.

use super::*;

#[tokio::test]
async fn a_large_message_arrives_whole_and_a_larger_one_is_not_sent() {
    let (connection, mut fake, _tasks) = connected().await;
    let thread = fake.start_thread(&connection, "t1").await;
    let text = "é".repeat(20 << 20);
    let large = [Item::input_text("user", &text)];
    let serve = async {
        // The fake closes on a frame over 16 MiB, as the real one does.
        let request = fake.expect("thread/inject_items").await;
        let arrived = request["params"]["items"][0]["content"][0]["text"].as_str().unwrap();
        assert!(arrived == text, "the text is not the same");
        fake.reply(&request, json!({})).await;
    };
    let (injected, ()) = bounded(async { tokio::join!(thread.inject(&large), serve) }).await;
    injected.unwrap();

    let larger = [Item::input_text("user", &"x".repeat(48 << 20))];
    let error = thread.inject(&larger).await.unwrap_err();
    assert!(
        matches!(error, AppServerError::TooLarge { method: "thread/inject_items", limit, .. } if limit == 48 << 20),
        "{error:?}"
    );
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn a_slow_owner_gets_merged_deltas_and_every_other_event() {
    let (connection, mut fake, _tasks) = connected().await;
    let mut thread = fake.start_thread(&connection, "t1").await;
    for at in 0..5000 {
        fake.notify("item/agentMessage/delta", delta("m", &format!("{at} "))).await;
    }
    fake.notify("turn/completed", ended()).await;
    let mut rest = (0..5000).map(|at| format!("{at} "));
    let mut events = 0;
    loop {
        events += 1;
        match bounded(thread.next_event()).await {
            ThreadEvent::TextDelta { delta, .. } => {
                for word in delta.split_inclusive(' ') {
                    assert_eq!(Some(word), rest.next().as_deref());
                }
            }
            ThreadEvent::TurnCompleted { status, .. } => break assert_eq!(status, TurnStatus::Completed),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rest.next(), None);
    assert!(events < 5000, "nothing was merged");
}

#[tokio::test]
async fn past_the_byte_bound_one_overflow_and_the_end_still_come() {
    let tasks = Tasks::new();
    let options = ConnectOptions { event_bytes: 4096, ..options() };
    let (connection, mut fake) = FakeAppServer::connect(options, &tasks).await;
    let mut thread = fake.start_thread(&connection, "t1").await;
    for _ in 0..100 {
        fake.notify("item/agentMessage/delta", delta("m", &"x".repeat(100))).await;
    }
    let raw = json!({"type": "message", "id": "m", "content": [{"type": "output_text", "text": "all"}]});
    fake.notify("rawResponseItem/completed", json!({"threadId": "t1", "turnId": "u1", "item": raw})).await;
    fake.notify("turn/completed", ended()).await;
    // Once the reading task has come this far, it has everything before.
    let (_, request) = tokio::join!(connection.ping(Duration::from_secs(5)), async {
        let request = fake.expect("thread/loaded/list").await;
        fake.reply(&request, json!({"data": []})).await;
    });
    let () = request;
    let mut kinds = Vec::new();
    while kinds.last() != Some(&"end") {
        kinds.push(match bounded(thread.next_event()).await {
            ThreadEvent::TextDelta { .. } => "text",
            ThreadEvent::Overflow => "overflow",
            ThreadEvent::RawItem { .. } => "item",
            ThreadEvent::TurnCompleted { .. } => "end",
            other => panic!("{other:?}"),
        });
    }
    kinds.dedup();
    assert_eq!(kinds, ["text", "overflow", "item", "end"]);
}
