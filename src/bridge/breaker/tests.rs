use super::*;

const OPEN: Duration = Duration::from_secs(30);

fn breaker(mode: BreakerMode) -> Breaker {
    Breaker::new(BreakerConfig {
        mode,
        failures: 3,
        failure_percent: 50,
        window: Duration::from_secs(60),
        open: OPEN,
        probes: 2,
    })
}

fn fail(breaker: &Breaker, times: usize) {
    for _ in 0..times {
        breaker.admit().unwrap().failed(Fault::Error);
    }
}

fn succeed(breaker: &Breaker, times: usize) {
    for _ in 0..times {
        breaker.admit().unwrap().succeeded();
    }
}

fn state(breaker: &Breaker) -> &'static str {
    breaker.health().state
}

fn refused(breaker: &Breaker) -> Option<Duration> {
    match breaker.admit() {
        Err(BridgeError::BreakerOpen { retry_after }) => Some(retry_after),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

#[tokio::test(start_paused = true)]
async fn enough_failures_open_it_and_a_call_is_told_until_when() {
    let breaker = breaker(BreakerMode::Enforce);
    fail(&breaker, 2);
    assert_eq!((state(&breaker), refused(&breaker)), ("closed", None));
    fail(&breaker, 1);
    pass(Duration::from_secs(10)).await;
    assert_eq!(refused(&breaker), Some(Duration::from_secs(20)));
    assert!(matches!(breaker.check(), Err(BridgeError::BreakerOpen { .. })));
    let health = breaker.health();
    assert_eq!((health.state, health.opened, health.refused), ("open", 1, 2));
    assert_eq!(health.next_probe, Some(Duration::from_secs(20)));
    assert_eq!(health.faults, FaultCounts { error: 3, ..FaultCounts::default() });
}

#[tokio::test(start_paused = true)]
async fn a_small_share_of_failures_and_old_ones_do_not() {
    let breaker = breaker(BreakerMode::Enforce);
    succeed(&breaker, 7);
    fail(&breaker, 6);
    assert_eq!((state(&breaker), breaker.health().recent), ("closed", (13, 6)));
    pass(Duration::from_secs(61)).await;
    assert_eq!(breaker.health().recent, (0, 0));
    fail(&breaker, 2);
    assert_eq!(state(&breaker), "closed");
}

#[tokio::test(start_paused = true)]
async fn probes_are_bounded_and_all_of_them_close_it() {
    let breaker = breaker(BreakerMode::Enforce);
    fail(&breaker, 3);
    pass(OPEN).await;
    let (first, second) = (breaker.admit().unwrap(), breaker.admit().unwrap());
    assert_eq!((state(&breaker), refused(&breaker)), ("half_open", Some(Duration::from_secs(1))));
    // They take at least as long again as they have taken.
    pass(Duration::from_secs(7)).await;
    assert_eq!(refused(&breaker), Some(Duration::from_secs(7)));
    pass(OPEN).await;
    assert_eq!(refused(&breaker), Some(OPEN));
    first.succeeded();
    assert_eq!((state(&breaker), refused(&breaker).is_some()), ("half_open", true));
    second.succeeded();
    assert_eq!((state(&breaker), refused(&breaker)), ("closed", None));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_begins_to_answer_is_not_waited_for() {
    let breaker = breaker(BreakerMode::Enforce);
    fail(&breaker, 3);
    pass(OPEN).await;
    let (mut first, mut second) = (breaker.admit().unwrap(), breaker.admit().unwrap());
    first.answering();
    first.answering();
    assert_eq!((state(&breaker), refused(&breaker).is_some()), ("half_open", true), "one answers once");
    second.answering();
    assert_eq!((state(&breaker), refused(&breaker)), ("closed", None));
    // How they end is of the time before.
    first.failed(Fault::Cut);
    second.succeeded();
    assert_eq!(
        (state(&breaker), breaker.health().recent, breaker.health().faults.cut),
        ("closed", (0, 0), 1)
    );

    fail(&breaker, 3);
    pass(OPEN).await;
    let mut broken = breaker.admit().unwrap();
    broken.answering();
    broken.failed(Fault::Cut);
    assert_eq!((state(&breaker), refused(&breaker)), ("open", Some(OPEN)));
    // In the closed phase a call counts once, by its end.
    pass(OPEN).await;
    succeed(&breaker, 2);
    let mut call = breaker.admit().unwrap();
    call.answering();
    call.failed(Fault::Cut);
    assert_eq!(breaker.health().recent, (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_opens_it_again() {
    let breaker = breaker(BreakerMode::Enforce);
    fail(&breaker, 3);
    pass(OPEN).await;
    let other = breaker.admit().unwrap();
    fail(&breaker, 1);
    assert_eq!((state(&breaker), refused(&breaker)), ("open", Some(OPEN)));
    // A probe of the time before says nothing any more, and takes no place of the next ones.
    other.succeeded();
    assert_eq!((state(&breaker), breaker.health().opened), ("open", 2));
    pass(OPEN).await;
    succeed(&breaker, 2);
    assert_eq!(state(&breaker), "closed");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_gives_its_place_back() {
    let breaker = breaker(BreakerMode::Enforce);
    fail(&breaker, 3);
    pass(OPEN).await;
    let (first, second) = (breaker.admit().unwrap(), breaker.admit().unwrap());
    assert!(refused(&breaker).is_some());
    drop(first);
    let third = breaker.admit().unwrap();
    drop((second, third));
    succeed(&breaker, 2);
    assert_eq!(state(&breaker), "closed");
}

#[tokio::test(start_paused = true)]
async fn what_was_under_way_when_it_opened_does_not_count() {
    let breaker = breaker(BreakerMode::Enforce);
    let slow: Vec<_> = (0..5).map(|_| breaker.admit().unwrap()).collect();
    fail(&breaker, 3);
    pass(OPEN).await;
    succeed(&breaker, 2);
    for call in slow {
        call.failed(Fault::Timeout);
    }
    assert_eq!((state(&breaker), breaker.health().faults.timeout), ("closed", 5));
}

#[tokio::test(start_paused = true)]
async fn observed_it_goes_the_same_way_and_refuses_nobody() {
    let breaker = breaker(BreakerMode::Observe);
    fail(&breaker, 3);
    // Would not have run: nothing follows from it.
    fail(&breaker, 5);
    breaker.check().unwrap();
    let health = breaker.health();
    assert_eq!((health.state, health.opened, health.refused), ("open", 1, 5));
    pass(OPEN).await;
    succeed(&breaker, 2);
    assert_eq!(state(&breaker), "closed");
}

#[tokio::test(start_paused = true)]
async fn switched_off_it_counts_nothing() {
    let breaker = breaker(BreakerMode::Off);
    fail(&breaker, 20);
    assert_eq!(breaker.health(), BreakerHealth { mode: "off", state: "closed", ..BreakerHealth::default() });
}

#[test]
fn only_what_the_backend_did_counts() {
    let message = || "No.".to_owned();
    let upstream = |code| BridgeError::Upstream { message: message(), status: None, code };
    for (error, fault) in [
        (upstream("upstream_error"), Some(Fault::Error)),
        (upstream("stream_disconnected"), Some(Fault::Cut)),
        (BridgeError::Overloaded { message: message(), retry_after: None }, Some(Fault::Overloaded)),
        (BridgeError::Timeout { what: "The turn", limit: OPEN }, Some(Fault::Timeout)),
        (upstream("upstream_refused"), None),
        (upstream("tool_choice_not_honoured"), None),
        (BridgeError::UsageLimit { message: message(), resets_at: None }, None),
        (BridgeError::RateLimited { message: message(), retry_after: None }, None),
        (BridgeError::LoginRequired { message: message() }, None),
        (BridgeError::ContextLengthExceeded { message: message() }, None),
        (BridgeError::ConnectionLost { reason: message() }, None),
        (BridgeError::Interrupted, None),
    ] {
        assert_eq!(Fault::of(&error), fault, "{error:?}");
    }
}
