//! The account behind the app-server: windows that are used up, and logins that are lost.

use std::time::{Duration, Instant};

use codex_bridge::standin::{AccountChange, Filled};
use serde_json::json;

use crate::http::until;
use crate::world::{On, World, chat};

/// A call that is refused without asking anybody takes no longer, on an idle machine.
const AT_ONCE: Duration = Duration::from_millis(50);

fn primary(used_percent: u64, resets_in: u64) -> AccountChange {
    AccountChange { primary: Some(Filled { used_percent, resets_in }), ..AccountChange::default() }
}

fn revoked(revoked: bool) -> AccountChange {
    AccountChange { revoked: Some(revoked), ..AccountChange::default() }
}

impl World {
    async fn until_blocked(&self) {
        until("the window is known to be full", async || self.bridge.account_health().block.map(drop)).await;
    }

    /// Every call is refused with this, and the model is asked nothing. Gives the shortest time it took.
    async fn refused(&self, status: u16, code: &str) -> Duration {
        self.standin.clear_requests();
        let mut shortest = Duration::MAX;
        for _ in 0..5 {
            for (path, body) in
                [("/v1/responses", json!({"input": "refused"})), ("/v1/chat/completions", chat("refused"))]
            {
                let started = Instant::now();
                let answer = self.client.post(path, &body).await;
                shortest = shortest.min(started.elapsed());
                assert_eq!(answer.failure(), (status, code.to_owned()), "{}", answer.text);
            }
        }
        assert_eq!(self.seen().len(), 0, "the model was asked");
        shortest
    }

    async fn ready(&self) -> (u16, String) {
        let answer = self.client.get("/readyz").await;
        (answer.status, answer.json()["reason"].as_str().unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn a_used_up_window_refuses_at_once_and_lets_go_at_its_reset() {
    let world = World::start(On::LoggedIn).await;
    // Nobody has called yet: it is asked for.
    let used =
        async || world.client.get("/v1/usage").await.ok()["account"]["primary"]["used_percent"].as_f64();
    assert!((until("the windows are told", used).await - 42.0).abs() < 0.1);
    world.ask("WINDOW 100 4 SAY the last one").await.ok();
    world.until_blocked().await;
    let shortest = world.refused(429, "usage_limit_reached").await;
    assert!(shortest < AT_ONCE, "{shortest:?}");
    let answer = world.ask("refused").await;
    let wait: u64 = answer.header("retry-after").expect("a wait").parse().expect("seconds");
    assert!((1..=4).contains(&wait), "{wait}");
    assert_eq!(answer.header("x-codex-bridge-account-primary-used-percent"), Some("100"));
    assert_eq!(world.ready().await.0, 200);
    tokio::time::sleep(Duration::from_secs(wait)).await;
    world.ask("SAY anew").await.ok();
    let usage = world.client.get("/v1/usage").await.ok();
    assert_eq!(
        (&usage["account"]["state"], &usage["account"]["primary"]["used_percent"]),
        (&json!("open"), &json!(42.0))
    );
    assert_eq!(
        (&usage["account"]["plan"], &usage["account"]["credits"]["balance"]),
        (&json!("plus"), &json!("0"))
    );
    assert_eq!(usage["total"]["calls"], 2);
    world.end().await;
}

#[tokio::test]
async fn a_window_that_somebody_else_used_up_costs_one_call() {
    let world =
        World::configured(On::LoggedIn, |config, _| config.upstream.refresh = Duration::from_secs(1)).await;
    world.ask("SAY first").await.ok();
    world.standin.change_account(primary(100, 600));
    let answer = world.ask("the one that finds out").await;
    assert_eq!(answer.failure(), (429, "usage_limit_reached".into()));
    let wait: u64 = answer.header("retry-after").expect("a wait").parse().expect("seconds");
    assert!((590..=600).contains(&wait), "to the second: {wait}");
    world.refused(429, "usage_limit_reached").await;
    // It was reset early, and nobody told.
    world.standin.change_account(primary(5, 600));
    until("calls go on", async || (world.ask("SAY again").await.status == 200).then_some(())).await;
    world.end().await;
}

#[tokio::test]
async fn what_is_paid_for_is_not_refused() {
    let world = World::start(On::LoggedIn).await;
    world.standin.change_account(AccountChange { credits: Some(true), ..primary(100, 600) });
    for n in 0..3 {
        world.ask(format!("SAY {n}")).await.ok();
    }
    assert_eq!(world.bridge.account_health().used_up, 0);
    world.end().await;
}

#[tokio::test]
async fn the_reserve_is_left_to_the_owner() {
    // 42 % is used.
    let world = World::configured(On::LoggedIn, |config, _| config.upstream.reserve_percent = 60).await;
    world.ask("SAY nothing was known yet").await.ok();
    world.until_blocked().await;
    world.refused(429, "usage_limit_reached").await;
    assert_eq!(world.client.get("/v1/usage").await.ok()["account"]["state"], "reserved");
    world.end().await;
}

#[tokio::test]
async fn a_login_that_is_removed_is_missed_at_once_and_found_again() {
    let world = World::start(On::LoggedIn).await;
    world.ask("SAY first").await.ok();
    let (file, aside) = (world.place.user("auth.json"), world.place.user("auth.aside"));
    for _ in 0..2 {
        std::fs::rename(&file, &aside).expect("the login is taken away");
        let answer = world.ask("logged out").await;
        assert_eq!(answer.failure(), (401, "login_required".into()));
        assert!(answer.text.contains("codex login"), "{}", answer.text);
        let shortest = world.refused(401, "login_required").await;
        assert!(shortest < AT_ONCE, "{shortest:?}");
        assert_eq!(world.ready().await, (503, "login_required".into()));
        let health = world.client.get("/v1/health").await.ok();
        assert_eq!(
            (&health["status"], &health["login"]["state"]),
            (&json!("not_ready"), &json!("logged_out"))
        );
        std::fs::rename(&aside, &file).expect("the login is given back");
        world.ask("SAY back").await.ok();
        assert_eq!(world.ready().await.0, 200);
    }
    world.end().await;
}

#[tokio::test]
async fn a_login_that_the_backend_takes_no_more_is_missed_at_once() {
    let world = World::start(On::LoggedIn).await;
    world.ask("SAY first").await.ok();
    let file = world.place.user("auth.json");
    let login = std::fs::read_to_string(&file).expect("a login");

    world.standin.change_account(revoked(true));
    let answer = world.ask("the one that finds out").await;
    assert_eq!(answer.failure(), (401, "login_required".into()));
    let answer = world.ask("the next").await;
    assert!(answer.text.contains("no longer takes it"), "{}", answer.text);
    let shortest = world.refused(401, "login_required").await;
    assert!(shortest < AT_ONCE, "{shortest:?}");
    assert_eq!(world.ready().await, (503, "login_required".into()));
    let health = world.client.get("/v1/health").await.ok();
    assert!(health["reason"].as_str().is_some_and(|reason| reason.contains("codex login")), "{health}");

    // `codex login` writes another one.
    world.standin.change_account(revoked(false));
    let fresh = world.place.user("auth.fresh");
    std::fs::write(&fresh, &login).expect("a login");
    std::fs::rename(&fresh, &file).expect("a login");
    world.ask("SAY logged in again").await.ok();
    assert_eq!(world.ready().await.0, 200);

    // Or the backend takes the old one again.
    world.standin.change_account(revoked(true));
    assert_eq!(world.ask("lost").await.failure(), (401, "login_required".into()));
    world.refused(401, "login_required").await;
    world.standin.change_account(revoked(false));
    until("it is taken up", async || (world.ready().await.0 == 200).then_some(())).await;
    world.ask("SAY good again").await.ok();
    world.end().await;
}
