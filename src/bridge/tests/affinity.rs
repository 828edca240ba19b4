//! Clients that bring the whole conversation each time, and the threads they meet again.

use serde_json::{Value, json};

use super::scene::{Running, Scene, after, ask, function, item, named, told};
use crate::app_server::testing::bounded;
use crate::bridge::BridgeError;
use crate::bridge::start::Plan;
use crate::config::Config;
use crate::model::{Item, KeyId, Retention, SessionId, SessionIdentity, TurnRequest, WebSearch};

/// A Chat Completions request.
fn chat(messages: &[(&str, &str)]) -> TurnRequest {
    let message = |(role, text): &(&str, &str)| match *role {
        "assistant" => item(json!({
            "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}],
        })),
        role => Item::input_text(role, text),
    };
    let input = messages.iter().map(message).collect();
    TurnRequest { input, retention: Retention::Nothing, ..ask("") }
}

/// Runs a whole good turn.
async fn say(scene: &Scene, request: TurnRequest, text: &str) -> Running {
    let (turn, running) = scene.start(request).await;
    running.say(text);
    assert_eq!(told(turn).await.0, text);
    running
}

fn texts(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["content"][0]["text"].as_str().unwrap_or_default()).collect()
}

const FIRST: &[(&str, &str)] = &[("developer", "be brief"), ("user", "a")];
const SECOND: &[(&str, &str)] =
    &[("developer", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c")];

#[tokio::test(start_paused = true)]
async fn a_conversation_that_comes_whole_goes_on_in_its_thread() {
    let scene = Scene::new(|_| {});
    let mut said = FIRST.to_vec();
    let answers: Vec<String> = (0..20).map(|n| format!("answer {n}")).collect();
    let mut thread = String::new();
    for answer in &answers {
        let running = say(&scene, chat(&said), answer).await;
        thread = running.thread;
        said.extend([("assistant", answer.as_str()), ("user", "more")]);
    }
    assert_eq!(scene.seen("thread/start").len(), 1);
    // Each item once, and no answer: those the thread has of its own.
    let items = scene.items(&thread);
    let expected: Vec<&str> = ["be brief", "a"].into_iter().chain(std::iter::repeat_n("more", 19)).collect();
    assert_eq!(texts(&items), expected);
    scene.end().await;
}

fn with_cache_key(key: &str, request: TurnRequest) -> TurnRequest {
    TurnRequest { prompt_cache_key: Some(key.into()), ..request }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_not_the_same_gets_a_thread_of_its_own() {
    let mut other_tools = chat(SECOND);
    other_tools.tools = vec![function("look")];
    let others = [
        ("key", TurnRequest { key: KeyId::new("other"), ..chat(SECOND) }),
        ("session", named("theirs", chat(SECOND))),
        ("cache key", with_cache_key("theirs", chat(SECOND))),
        ("model", TurnRequest { model: Some("model-b".into()), ..chat(SECOND) }),
        ("tools", other_tools),
        ("verbosity", TurnRequest { verbosity: Some("low".into()), ..chat(SECOND) }),
        ("web search", TurnRequest { web_search: Some(WebSearch::default()), ..chat(SECOND) }),
        ("instructions", TurnRequest { instructions: Some("be kind".into()), ..chat(SECOND) }),
        ("answer", chat(&[FIRST[0], FIRST[1], ("assistant", "B"), ("user", "c")])),
        ("question", chat(&[FIRST[0], ("user", "A"), ("assistant", "b"), ("user", "c")])),
        ("again", chat(FIRST)),
    ];
    for (what, request) in others {
        let scene = Scene::new(|_| {});
        let first = say(&scene, chat(FIRST), "b").await;
        let whole = request.input.len() + usize::from(request.instructions.is_some());
        let other = say(&scene, request, "d").await;
        assert_ne!(first.thread, other.thread, "{what}");
        assert_eq!(scene.items(&other.thread).len(), whole, "{what}");
        // The thread is still there for whoever it does fit.
        assert_eq!(say(&scene, chat(SECOND), "e").await.thread, first.thread, "{what}");
        scene.end().await;
    }
}

/// What is read off the async threads says the same.
#[tokio::test]
async fn a_conversation_of_megabytes_goes_on_in_its_thread_too() {
    let scene = Scene::new(|_| {});
    let long = "x".repeat(3 << 20);
    let first = say(&scene, chat(&[("developer", "be brief"), ("user", &long)]), "b").await;
    let second = [("developer", "be brief"), ("user", &long), ("assistant", "b"), ("user", "c")];
    assert_eq!(say(&scene, chat(&second), "d").await.thread, first.thread);
    assert_eq!(texts(&scene.items(&first.thread)), ["be brief", &long, "c"]);
    let other = [("developer", "be brief"), ("user", &long), ("assistant", "B"), ("user", "c")];
    let other = say(&scene, chat(&other), "d").await;
    assert_eq!(texts(&scene.items(&other.thread)), ["be brief", &long, "B", "c"]);
    scene.end().await;
}

#[tokio::test]
async fn work_on_the_input_that_breaks_off_leaves_it_whole() {
    let scene = Scene::new(|_| {});
    let request = ask(&"x".repeat(1 << 20));
    let said = request.input.clone();
    let model = scene.bridge.resolve_model(None).await.unwrap();
    let mut plan = Plan { request, model, account: None, previous: None, other_account: false, rerun: false };
    let broken = scene.bridge.0.with_input::<()>(&mut plan, 0, |_| panic!("broken")).await;
    assert!(matches!(broken, Err(BridgeError::Interrupted)));
    assert_eq!(plan.request.input, said);
    let items = scene.bridge.0.with_input(&mut plan, 0, <[Item]>::len).await;
    assert_eq!((items.unwrap(), plan.request.input), (1, said));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_names_a_response_once_and_then_sends_everything_meets_its_thread() {
    let all = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")];
    // Whether it names its conversation, or only the bridge does.
    for name in [None, Some("mine")] {
        let of = |request: TurnRequest| match name {
            Some(name) => named(name, request),
            None => request,
        };
        let scene = Scene::new(|_| {});
        let request = of(ask("a"));
        let id = request.response_id.clone();
        let first = say(&scene, request, "b").await;
        let second = say(&scene, after(&id, "c"), "d").await;
        let third = say(&scene, of(chat(&all)), "f").await;
        assert_eq!([&second.thread, &third.thread], [&first.thread; 2], "{name:?}");
        scene.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_on_in_the_thread_of_another() {
    type Change = fn(TurnRequest) -> TurnRequest;
    let mine: Change = |request| with_cache_key("mine", named("mine", request));
    let others: [(&str, Change); 5] = [
        ("session", |request| with_cache_key("mine", named("theirs", request))),
        ("no session", |request| with_cache_key("mine", request)),
        ("cache key", |request| with_cache_key("theirs", named("mine", request))),
        ("no cache key", |request| named("mine", request)),
        ("digest", |request| TurnRequest {
            session: SessionIdentity::derived(SessionId::new("mine")),
            ..with_cache_key("mine", request)
        }),
    ];
    for (what, theirs) in others {
        let scene = Scene::new(|_| {});
        let first = say(&scene, mine(chat(FIRST)), "b").await;
        assert_ne!(say(&scene, theirs(chat(SECOND)), "d").await.thread, first.thread, "{what}");
        assert_eq!(say(&scene, mine(chat(SECOND)), "e").await.thread, first.thread, "{what}");
        scene.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_digest_of_the_form_they_came_in_does_not_part_a_conversation() {
    let scene = Scene::new(|_| {});
    let derived =
        |id: &str, request| TurnRequest { session: SessionIdentity::derived(SessionId::new(id)), ..request };
    let first = say(&scene, derived("d1", chat(FIRST)), "b").await;
    assert_eq!(say(&scene, derived("d2", chat(SECOND)), "d").await.thread, first.thread);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_a_named_one_along_its_chain() {
    let scene = Scene::new(|_| {});
    let request = named("mine", TurnRequest { retention: Retention::Continuable, ..chat(FIRST) });
    let id = request.response_id.clone();
    let first = say(&scene, request, "b").await;
    assert_eq!(say(&scene, after(&id, "c"), "d").await.thread, first.thread);
    let mut third = SECOND.to_vec();
    third.extend([("assistant", "d"), ("user", "e")]);
    assert_ne!(say(&scene, chat(&third), "f").await.thread, first.thread);
    assert_eq!(say(&scene, named("mine", chat(&third)), "f").await.thread, first.thread);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn another_login_gets_a_thread_of_its_own() {
    let scene = Scene::new(|_| {});
    scene.log_in_and_wait("one@example.com").await;
    let first = say(&scene, chat(FIRST), "b").await;
    scene.log_in_and_wait("two@example.com").await;
    assert_ne!(say(&scene, chat(SECOND), "d").await.thread, first.thread);
    scene.log_in_and_wait("one@example.com").await;
    assert_eq!(say(&scene, chat(SECOND), "e").await.thread, first.thread);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn instructions_are_a_developer_item() {
    let scene = Scene::new(|_| {});
    let first = TurnRequest { instructions: Some("be brief".into()), ..chat(&[("user", "a")]) };
    let first = say(&scene, first, "b").await;
    assert_eq!(say(&scene, chat(SECOND), "d").await.thread, first.thread);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_can_be_named_is_found_by_what_was_said_too() {
    let scene = Scene::new(|_| {});
    let request = TurnRequest { retention: Retention::Stored, ..chat(FIRST) };
    let id = request.response_id.clone();
    let first = say(&scene, request, "b").await;
    assert_eq!(say(&scene, chat(SECOND), "d").await.thread, first.thread);
    // Whoever names it afterwards gets it rebuilt: the thread has gone on.
    let branch = say(&scene, after(&id, "x"), "y").await;
    assert_ne!(branch.thread, first.thread);
    assert_eq!(texts(&scene.items(&branch.thread)), ["be brief", "a", "b", "x"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn reasoning_that_a_client_cannot_send_back_stays_with_its_thread() {
    let scene = Scene::new(|_| {});
    let (turn, first) = scene.start(chat(FIRST)).await;
    first.item(json!({"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"}));
    first.say("b");
    told(turn).await.1.unwrap();
    assert_eq!(say(&scene, chat(SECOND), "d").await.thread, first.thread);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn two_who_go_on_from_the_same_do_not_meet() {
    let scene = Scene::new(|_| {});
    let first = say(&scene, chat(FIRST), "b").await;
    let (left, on) = scene.start(chat(SECOND)).await;
    let (right, other) = scene.start(chat(SECOND)).await;
    assert_eq!(on.thread, first.thread);
    assert_ne!(other.thread, first.thread);
    on.say("d");
    other.say("e");
    assert_eq!((told(left).await.0, told(right).await.0), ("d".to_owned(), "e".to_owned()));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_shots_evict_no_conversation_and_stay_few() {
    let scene = Scene::new(|config| config.continuation.warm_threads = 4);
    say(&scene, chat(FIRST), "b").await;
    let conversation = say(&scene, chat(SECOND), "d").await;
    for n in 0..20 {
        say(&scene, chat(&[("user", &format!("one shot {n}"))]), "x").await;
    }
    assert_eq!(bounded(scene.bridge.health()).await.continuation.warm_threads, 2);
    let mut third = SECOND.to_vec();
    third.extend([("assistant", "d"), ("user", "e")]);
    assert_eq!(say(&scene, chat(&third), "f").await.thread, conversation.thread);
    // The last one-shot may yet become a conversation.
    let started = scene.seen("thread/start").len();
    say(&scene, chat(&[("user", "one shot 19"), ("assistant", "x"), ("user", "why?")]), "y").await;
    assert_eq!(scene.seen("thread/start").len(), started);
    // Answers in what a client sends make it a conversation from the first call on.
    let more = |n: u32| format!("{n}?");
    for n in 0..4 {
        say(&scene, chat(&[("user", &more(n)), ("assistant", "x"), ("user", "y")]), "z").await;
    }
    say(&scene, chat(&[("user", "no more room")]), "x").await;
    let before = scene.seen("thread/start").len();
    for n in 0..4 {
        let on = [("user", &*more(n)), ("assistant", "x"), ("user", "y"), ("assistant", "z"), ("user", "on")];
        say(&scene, chat(&on), "z").await;
    }
    assert_eq!(scene.seen("thread/start").len(), before);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_can_be_named_finds_room_among_idle_conversations() {
    let scene = Scene::new(|config| config.continuation.warm_threads = 2);
    for question in ["1?", "2?"] {
        say(&scene, chat(&[("user", question), ("assistant", "x"), ("user", "y")]), "z").await;
    }
    let request = TurnRequest { retention: Retention::Continuable, ..chat(FIRST) };
    let id = request.response_id.clone();
    let first = say(&scene, request, "b").await;
    assert_eq!(say(&scene, after(&id, "c"), "d").await.thread, first.thread);
    scene.end().await;
}

async fn second_of(configure: impl FnOnce(&mut Config), wait: u64) -> bool {
    let scene = Scene::new(configure);
    let first = say(&scene, chat(FIRST), "b").await;
    tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
    let second = say(&scene, chat(SECOND), "d").await;
    if second.thread != first.thread {
        assert_eq!(texts(&scene.items(&second.thread)), ["be brief", "a", "b", "c"]);
    }
    scene.end().await;
    second.thread == first.thread
}

#[tokio::test(start_paused = true)]
async fn it_is_bounded_in_time_and_can_be_switched_off() {
    assert!(second_of(|_| {}, 0).await);
    assert!(!second_of(|_| {}, 400).await);
    assert!(!second_of(|config| config.continuation.affinity = false, 0).await);
    assert!(!second_of(|config| config.continuation.warm_threads = 0, 0).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_cut_is_not_gone_on_from() {
    let scene = Scene::new(|_| {});
    let request = TurnRequest { max_output_tokens: Some(1), ..chat(FIRST) };
    let (turn, first) = scene.start(request).await;
    first.begin("m").delta("m", "b and more").message("m", "b and more");
    told(turn).await.1.unwrap();
    scene.nth("thread/unsubscribe", 1).await;
    assert_ne!(say(&scene, chat(SECOND), "d").await.thread, first.thread);
    scene.end().await;
}
