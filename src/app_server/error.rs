//! What can go wrong between us and the app-server, and how a turn fails behind it.

use std::fmt;
use std::time::Duration;

/// Why a request to the app-server has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppServerError {
    /// Nobody listens there, or the way is barred.
    #[error("cannot connect to the app-server at {endpoint}: {reason}")]
    Connect {
        /// Where.
        endpoint: String,
        /// The system's words.
        reason: String,
    },
    /// The WebSocket handshake was refused.
    #[error("the app-server refused the WebSocket handshake: {reason}")]
    Handshake {
        /// The HTTP status, where there was one; 401 is a wrong or missing capability token.
        status: Option<u16>,
        /// Why.
        reason: String,
    },
    /// There is no app-server to ask, for now.
    #[error("{reason}")]
    Unavailable {
        /// What the supervisor knows.
        reason: String,
    },
    /// The connection ended before the answer came.
    #[error("the connection to the app-server is closed: {0}")]
    Disconnected(DisconnectReason),
    /// No answer within the limit.
    #[error("the app-server did not answer {method} within {limit:?}")]
    Timeout {
        /// The request.
        method: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Still overloaded after every retry that the time limit allowed.
    #[error("the app-server is overloaded ({method})")]
    Overloaded {
        /// The request.
        method: &'static str,
    },
    /// The app-server refused the request.
    #[error("the app-server refused {method}: {message} ({code})")]
    Refused {
        /// The request.
        method: &'static str,
        /// The JSON-RPC code.
        code: i32,
        /// The app-server's words.
        message: String,
        /// `data.input_error_code`, where given (`input_too_large`, …).
        input_error: Option<String>,
    },
    /// The message is larger than the app-server takes; it was not sent.
    #[error("{method} would be {bytes} bytes; the app-server takes at most {limit}")]
    TooLarge {
        /// The request.
        method: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The answer cannot be read: another protocol than we know.
    #[error("the app-server's answer to {method} cannot be read: {reason}")]
    Unreadable {
        /// The request.
        method: &'static str,
        /// The decoder's words; positions, no content.
        reason: String,
    },
}

/// Why a connection (or the events of a thread) ended. The first reason stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DisconnectReason {
    /// We closed it, or nobody holds it any more.
    ClosedByUs,
    /// The daemon stops.
    Stopping,
    /// Another app-server has taken its place, and what it had to finish took too long.
    Replaced,
    /// The app-server closed it.
    ClosedByPeer {
        /// The WebSocket close code, where there was one.
        code: Option<u16>,
        /// The peer's words.
        reason: String,
    },
    /// The socket failed.
    Socket(String),
    /// Nothing came back within the ping's time limit.
    PingTimeout(Duration),
    /// The app-server took nothing for this long.
    WriteTimeout(Duration),
    /// It gave no sign of life for this long, while others did; the connection lives.
    Silent(Duration),
    /// Requests in a row were not answered, each within this limit.
    Hung(Duration),
    /// The peer asked more than we could answer in time.
    TooManyServerRequests,
    /// The app-server unloaded the thread; the connection lives.
    ThreadClosed,
    /// The thread's events were not taken and passed every bound; the connection lives.
    EventsOverrun,
}

impl DisconnectReason {
    /// Whether the app-server, the way to it or the thread was lost, rather than let go or overrun.
    pub fn is_loss(&self) -> bool {
        !matches!(self, Self::ClosedByUs | Self::Stopping | Self::EventsOverrun)
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClosedByUs => f.write_str("closed by the bridge"),
            Self::Stopping => f.write_str("the bridge is stopping"),
            Self::Replaced => f.write_str("replaced by another app-server"),
            Self::ClosedByPeer { code: Some(code), reason } if !reason.is_empty() => {
                write!(f, "closed by the app-server ({code}: {reason})")
            }
            Self::ClosedByPeer { code: Some(code), .. } => write!(f, "closed by the app-server ({code})"),
            Self::ClosedByPeer { code: None, .. } => f.write_str("closed by the app-server"),
            Self::Socket(reason) => write!(f, "socket error: {reason}"),
            Self::PingTimeout(limit) => write!(f, "no sign of life within {limit:?}"),
            Self::WriteTimeout(limit) => write!(f, "the app-server took nothing for {limit:?}"),
            Self::Silent(limit) => write!(f, "the app-server was silent for {limit:?}"),
            Self::Hung(limit) => write!(f, "the app-server hangs: no answer within {limit:?}, twice"),
            Self::TooManyServerRequests => f.write_str("more server requests than could be answered"),
            Self::ThreadClosed => f.write_str("the app-server closed the thread"),
            Self::EventsOverrun => f.write_str("the thread's events were not taken in time"),
        }
    }
}

/// How a turn failed, or what is being retried. `Debug` shows no words: they may quote what was asked.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnFailure {
    /// What to branch on.
    pub kind: FailureKind,
    /// The app-server's words, for the client.
    pub message: String,
    /// More of them: with a retry this is where the cause stands.
    pub details: Option<String>,
    /// The upstream HTTP status, where told.
    pub status: Option<u16>,
}

impl fmt::Debug for TurnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnFailure")
            .field("kind", &self.kind)
            .field("status", &self.status)
            .field("bytes", &(self.message.len() + self.details.as_ref().map_or(0, String::len)))
            .finish()
    }
}

/// `codexErrorInfo`, every variant of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureKind {
    /// The input does not fit the model.
    ContextWindowExceeded,
    /// The session's budget is used up.
    SessionBudgetExceeded,
    /// The account's usage window is used up.
    UsageLimitExceeded,
    /// The backend refuses the rate.
    RateLimitExceeded,
    /// The flex tier has no room.
    FlexUnavailable,
    /// The backend is overloaded.
    ServerOverloaded,
    /// No such model.
    ModelNotFound,
    /// No capacity under the policy.
    PolicyCapacityUnavailable,
    /// A hook of the backend refused.
    InferenceHookDenied,
    /// Refused by the cyber policy.
    CyberPolicy,
    /// Refused as misaligned.
    MisalignmentPolicyViolation,
    /// Too many denials.
    TooManyDenials,
    /// No connection, or an HTTP error, upstream.
    HttpConnectionFailed,
    /// The upstream stream could not be opened.
    ResponseStreamConnectionFailed,
    /// The upstream stream was cut.
    ResponseStreamDisconnected,
    /// Every retry failed.
    ResponseTooManyFailedAttempts,
    /// The backend failed.
    InternalServerError,
    /// The login is missing or no longer good.
    Unauthorized,
    /// The backend refused the request.
    BadRequest,
    /// A roll-back failed.
    ThreadRollbackFailed,
    /// The sandbox failed.
    SandboxError,
    /// A turn runs that takes no input.
    ActiveTurnNotSteerable,
    /// The app-server's own `other`, or nothing said.
    Other,
    /// A word we do not know yet, as it came.
    Unknown(String),
}
