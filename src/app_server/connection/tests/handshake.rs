//! Beginning and end of a connection.

use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn introduces_itself_and_mutes_what_nobody_reads() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let tasks = Tasks::new();
    let serve = async { FakeAppServer::accept(theirs).await.serve_initialize().await };
    let (connection, params) = tokio::join!(Connection::open(ours, options(), &tasks), serve);
    let connection = connection.unwrap();
    assert_eq!(params["clientInfo"]["name"], "codex_bridge");
    assert_eq!(params["capabilities"]["experimentalApi"], true);
    let muted = params["capabilities"]["optOutNotificationMethods"].as_array().unwrap();
    assert!(muted.contains(&json!("thread/started")));
    assert!(!muted.contains(&json!("turn/completed")));
    assert_eq!(connection.server_version(), Some("0.169.0"));
    assert_eq!(connection.codex_home(), "/home/codex");
    assert_eq!(connection.generation(), 7);
}

#[tokio::test]
async fn sends_the_capability_token_and_names_a_refusal() {
    let (ours, mut theirs) = tokio::io::duplex(4096);
    let token = Some(SecretString::from("s3cret"));
    let options = ConnectOptions { url: "ws://example:1/".into(), token, ..options() };
    assert!(!format!("{options:?}").contains("s3cret"));
    let tasks = Tasks::new();
    let serve = async {
        let mut head = vec![0; 4096];
        let read = theirs.read(&mut head).await.unwrap();
        theirs.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        String::from_utf8(head[..read].to_vec()).unwrap().to_lowercase()
    };
    let (refused, head) = tokio::join!(Connection::open(ours, options, &tasks), serve);
    assert!(head.contains("authorization: bearer s3cret\r\n"), "{head}");
    assert!(head.contains("host: example:1\r\n"), "{head}");
    assert!(!head.contains("\norigin:"), "an origin is answered 403: {head}");
    assert!(matches!(refused, Err(AppServerError::Handshake { status: Some(401), .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_does_not_hold_the_handshake() {
    let (ours, _theirs) = tokio::io::duplex(4096);
    let opening = Connection::open(ours, options(), &Tasks::new()).await;
    assert!(matches!(opening, Err(AppServerError::Handshake { .. })), "{opening:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_initialises_is_left() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let tasks = Tasks::new();
    let opening = Connection::open(ours, options(), &tasks);
    let (opening, mut fake) = tokio::join!(opening, FakeAppServer::accept(theirs));
    assert!(matches!(opening, Err(AppServerError::Timeout { method: "initialize", .. })), "{opening:?}");
    fake.closed().await;
    assert!(tasks.shut_down(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn an_end_by_the_peer_gives_every_waiter_the_reason() {
    let (connection, mut fake, tasks) = connected().await;
    let mut thread = fake.start_thread(&connection, "t1").await;
    let id = ThreadId::new("t1");
    let status = connection.thread_status(&id);
    let waiting =
        async { tokio::join!(status, connection.models(), connection.closed(), thread.next_event()) };
    let end = async {
        fake.expect("thread/read").await;
        fake.expect("model/list").await;
        fake.close(1001, "going away").await;
    };
    let ((status, models, closed, event), ()) = Box::pin(bounded(async { tokio::join!(waiting, end) })).await;
    let reason = DisconnectReason::ClosedByPeer { code: Some(1001), reason: "going away".into() };
    assert_eq!(closed, reason);
    assert_eq!(event, ThreadEvent::Closed(reason.clone()));
    assert_eq!(thread.next_event().await, event, "and again");
    for error in [status.unwrap_err(), models.unwrap_err(), connection.models().await.unwrap_err()] {
        assert!(matches!(&error, AppServerError::Disconnected(why) if *why == reason), "{error:?}");
    }
    assert!(connection.is_closed());
    assert_eq!(connection.requests_in_flight(), 0);
    drop((thread, connection));
    assert!(tasks.shut_down(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn the_last_handle_closes_the_connection_and_both_tasks_end() {
    let (connection, mut fake, tasks) = connected().await;
    let thread = fake.start_thread(&connection, "t1").await;
    drop(connection);
    assert_eq!(tasks.running(), 2, "a thread holds it");
    drop(thread);
    fake.expect("thread/unsubscribe").await;
    fake.closed().await;
    assert!(tasks.shut_down(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn close_waits_for_the_socket_and_says_who_closed() {
    let (connection, mut fake, tasks) = connected().await;
    let ((), ()) = bounded(async { tokio::join!(connection.close(), fake.closed()) }).await;
    assert_eq!(connection.closed().await, DisconnectReason::ClosedByUs);
    assert!(tasks.shut_down(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn the_stop_token_ends_it() {
    let (connection, mut fake, tasks) = connected().await;
    let ((), stopped) = tokio::join!(fake.closed(), tasks.shut_down(Duration::from_secs(5)));
    assert!(stopped);
    assert_eq!(connection.closed().await, DisconnectReason::Stopping);
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_a_sign_of_life_is_given_up() {
    let (connection, fake, _tasks) = connected().await;
    let begun = Instant::now();
    let limit = options().ping_timeout;
    assert_eq!(connection.closed().await, DisconnectReason::PingTimeout(limit));
    assert_eq!(begun.elapsed().as_secs(), (options().ping_interval + limit).as_secs());
    drop(fake);
}

#[tokio::test(start_paused = true)]
async fn pongs_are_signs_of_life() {
    let (connection, mut fake, _tasks) = connected().await;
    fake.idle(Duration::from_secs(600)).await;
    assert!(!connection.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_does_not_hold_the_end() {
    let (connection, mut fake, tasks) = connected().await;
    let thread = fake.start_thread(&connection, "t1").await;
    let large = [Item::input_text("user", &"x".repeat(4 << 20))];
    let injecting = async { thread.inject(&large).await };
    let closing = async {
        tokio::task::yield_now().await;
        connection.close().await;
    };
    let (injected, ()) = tokio::join!(injecting, closing);
    assert!(
        matches!(injected, Err(AppServerError::Disconnected(DisconnectReason::ClosedByUs))),
        "{injected:?}"
    );
    assert!(tasks.shut_down(Duration::from_secs(2)).await);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_given_up() {
    let tasks = Tasks::new();
    let options = ConnectOptions { request_timeout: Duration::from_secs(300), ..options() };
    let limit = options.write_timeout;
    let (connection, mut fake) = FakeAppServer::connect(options, &tasks).await;
    let thread = fake.start_thread(&connection, "t1").await;
    let large = [Item::input_text("user", &"x".repeat(4 << 20))];
    let error = thread.inject(&large).await.unwrap_err();
    assert!(
        matches!(&error, AppServerError::Disconnected(DisconnectReason::WriteTimeout(passed)) if *passed == limit),
        "{error:?}"
    );
}
