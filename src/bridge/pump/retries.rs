//! How long the app-server may go on trying again. It tells of most retries; over the upstream WebSocket the
//! first of a row is not told, and shows only once the answer begins anew.

use std::time::Duration;

use tokio::time::Instant;

use crate::app_server::TurnFailure;

/// The retries of one turn. Over once the answer has got further than it had before them.
#[derive(Debug)]
pub(super) struct Retries {
    /// How long they may last while no attempt answers.
    limit: Duration,
    /// When the first of them was noticed.
    since: Option<Instant>,
    /// An attempt answers.
    answering: bool,
    /// Why the app-server last tried again, as it told.
    last: Option<TurnFailure>,
    /// When it last told so, until the attempt answers.
    told: Option<Instant>,
    /// Its last pause before an attempt that did not answer.
    pause: Option<Duration>,
    /// The most the answer has had, bytes.
    furthest: usize,
}

impl Retries {
    /// None yet.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, since: None, answering: false, last: None, told: None, pause: None, furthest: 0 }
    }

    /// The app-server tells that it tries again.
    pub(super) fn told(&mut self, cause: TurnFailure) {
        self.ended();
        self.answering = false;
        self.last = Some(cause);
        self.since.get_or_insert_with(Instant::now);
        self.told = Some(Instant::now());
    }

    /// The answer begins anew, and nobody said that it would.
    pub(super) fn untold(&mut self) {
        self.answering = true;
        self.since.get_or_insert_with(Instant::now);
    }

    /// An attempt answers; so far it has had `bytes`.
    pub(super) fn answering(&mut self, bytes: usize) {
        self.answering = true;
        self.told = None;
        if bytes > self.furthest {
            self.furthest = bytes;
            self.since = None;
        }
    }

    /// The last attempt has ended.
    pub(super) fn ended(&mut self) {
        if let Some(told) = self.told.take() {
            self.pause = Some(told.elapsed());
        }
    }

    /// Whether they have lasted too long, an attempt that answers or not: it is one more.
    pub(super) fn are_too_many(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= self.limit)
    }

    /// When they will have lasted too long. An attempt that answers may go on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.since.filter(|_| !self.answering).map(|since| since + self.limit)
    }

    /// Why the app-server last tried again, as it told.
    pub(super) fn last(&self) -> Option<&TurnFailure> {
        self.last.as_ref()
    }

    /// The app-server's last pause before an attempt.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app_server::FailureKind;

    fn cause() -> TurnFailure {
        let kind = FailureKind::ResponseStreamDisconnected;
        TurnFailure { kind, message: "Reconnecting... 1/5".into(), details: None, status: None }
    }

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn they_last_from_the_first_until_the_answer_gets_further() {
        let mut retries = Retries::new(Duration::from_secs(10));
        retries.answering(5);
        retries.told(cause());
        let deadline = Instant::now() + Duration::from_secs(10);
        assert_eq!(retries.deadline(), Some(deadline));
        pass(4).await;
        retries.told(cause());
        assert_eq!((retries.deadline(), retries.pause()), (Some(deadline), Some(Duration::from_secs(4))));
        // What was there before is no progress, but it is an answer.
        retries.answering(5);
        assert_eq!(retries.deadline(), None);
        pass(7).await;
        assert!(retries.are_too_many());
        retries.answering(6);
        assert!(!retries.are_too_many());
        retries.told(cause());
        assert_eq!(retries.deadline(), Some(Instant::now() + Duration::from_secs(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_nothing_takes_none() {
        let mut retries = Retries::new(Duration::ZERO);
        assert!(!retries.are_too_many());
        retries.untold();
        assert!(retries.are_too_many());
        let mut retries = Retries::new(Duration::ZERO);
        retries.told(cause());
        assert!(retries.are_too_many());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_measured_to_the_next_failure_alone() {
        let mut retries = Retries::new(Duration::from_secs(60));
        retries.told(cause());
        pass(2).await;
        retries.answering(3);
        pass(50).await;
        retries.ended();
        assert_eq!(retries.pause(), None);
        retries.told(cause());
        pass(7).await;
        retries.ended();
        assert_eq!(retries.pause(), Some(Duration::from_secs(7)));
    }
}
