//! One socket from its first message to its last: it owns the connection, the lanes and the answers that run.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::stream::{BoxStream, SelectAll, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message as Frame, Utf8Bytes};

use super::Open;
use super::lanes::{Lane, Lanes};
use super::message::{self, Message};
use super::metered::Metered;
use super::reply::{Asked, Context, Told, What, refuse, reply};
use crate::api::error::ApiError;
use crate::api::extract;
use crate::api::observe::CallLine;
use crate::api::server::{Busy, GOODBYE, Seat};
use crate::config::SocketConfig;

/// Of one socket, each way, bytes.
const BUFFER: usize = 16 * 1024;
/// How long a client may take to say goodbye whose place is waited for.
const HURRY: Duration = Duration::from_millis(200);

/// A socket.
pub(super) struct Session {
    context: Arc<Context>,
    socket: WebSocketStream<Metered<TokioIo<Upgraded>>>,
    lanes: Lanes<Asked>,
    /// Polled only when the client takes more: what waits meanwhile waits in the turns' own bounded buffers.
    running: SelectAll<BoxStream<'static, Told>>,
    seat: Seat,
    /// While something runs.
    busy: Option<Busy>,
    open: Open,
    config: SocketConfig,
    /// When it may be no longer used.
    old_at: Instant,
    /// Since when nothing has run or come.
    idle_since: Instant,
    /// When we said something last.
    told_at: Instant,
    ending: Option<Ending>,
}

/// Why it ends as soon as nothing runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// `websocket.max_age`.
    Old,
    /// The bridge stops.
    Draining,
    /// Another connection needs the place.
    NoRoom,
    /// Its key is none of ours any more.
    Revoked,
}

/// What a client is told at the end.
enum Close {
    /// It has closed, or cannot be reached.
    Gone,
    With(CloseCode, &'static str),
}

/// What has happened.
enum Event {
    Told(Told),
    Heard(Option<Result<Frame, Error>>),
    Time,
    Ending(Ending),
}

impl Session {
    pub(super) async fn new(
        context: Arc<Context>,
        stream: Metered<TokioIo<Upgraded>>,
        config: SocketConfig,
        seat: Seat,
        open: Open,
    ) -> Self {
        let largest = Some(context.edge.max_body_bytes);
        let settings = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_message_size(largest)
            .max_frame_size(largest);
        let now = Instant::now();
        Self {
            socket: WebSocketStream::from_raw_socket(stream, Role::Server, Some(settings)).await,
            context,
            lanes: Lanes::new(),
            running: SelectAll::new(),
            seat,
            busy: None,
            open,
            old_at: now + config.max_age,
            config,
            idle_since: now,
            told_at: now,
            ending: None,
        }
    }

    /// Talks until the client leaves or the socket is to end.
    pub(super) async fn talk(mut self) {
        let seat = self.seat.clone();
        let talking = async {
            let close = loop {
                if let Err(close) = self.go_on().await {
                    break close;
                }
            };
            // What runs is interrupted before the client is waited for.
            self.running.clear();
            if let Close::With(code, reason) = close {
                let patience = if code == CloseCode::Again { HURRY } else { GOODBYE };
                self.close(code, reason, patience).await;
            }
        };
        tokio::select! {
            () = seat.cut() => {}
            () = talking => {}
        }
    }

    /// Starts what may start, waits for what happens next, and does what follows from it.
    async fn go_on(&mut self) -> Result<(), Close> {
        while let Some((lane, asked)) = self.lanes.next() {
            self.running.push(reply(Arc::clone(&self.context), lane, asked));
        }
        if self.lanes.is_idle() {
            self.busy = None;
            if let Some(ending) = self.ending {
                return Err(self.end(ending).await?);
            }
        } else if self.busy.is_none() {
            self.busy = Some(self.seat.busy());
        }
        let wake = self.wake();
        let seat = self.seat.clone();
        // Every branch may be dropped: what was not taken is still there.
        let event = tokio::select! {
            Some(told) = self.running.next() => Event::Told(told),
            heard = self.socket.next() => Event::Heard(heard),
            () = tokio::time::sleep_until(wake) => Event::Time,
            () = seat.draining(), if self.ending.is_none() => Event::Ending(Ending::Draining),
            () = seat.leave(), if self.ending.is_none() && self.busy.is_none() => Event::Ending(Ending::NoRoom),
        };
        match event {
            Event::Told(Told { lane, what }) => self.told(&lane, what).await,
            Event::Heard(heard) => self.heard(heard).await,
            Event::Time => self.check_time().await,
            Event::Ending(ending) => {
                self.ending = Some(ending);
                Ok(())
            }
        }
    }

    async fn told(&mut self, lane: &Lane, what: What) -> Result<(), Close> {
        match what {
            What::Events(events) => self.send(events).await,
            What::Ended => {
                self.lanes.ended(lane);
                self.idle_since = Instant::now();
                Ok(())
            }
            // Answers that run go on, as those of a POST do; what follows is refused by itself.
            What::Revoked => {
                self.lanes.ended(lane);
                self.ending = Some(Ending::Revoked);
                Ok(())
            }
        }
    }

    async fn heard(&mut self, heard: Option<Result<Frame, Error>>) -> Result<(), Close> {
        let frame = match heard {
            Some(Ok(frame)) => frame,
            Some(Err(Error::Capacity(_))) => {
                let (error, _) = (self.too_large(), self.socket.get_mut().take_room());
                self.refuse(&Lane::default(), &error).await?;
                return Err(Close::With(CloseCode::Size, "the message is too large"));
            }
            Some(Err(Error::Utf8(_))) => {
                return Err(Close::With(CloseCode::Invalid, "the text is not UTF-8"));
            }
            Some(Err(Error::Protocol(error))) => {
                tracing::debug!(%error, "a client does not keep to the protocol");
                return Err(Close::With(CloseCode::Protocol, "the frames are not valid"));
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "a socket ended early");
                return Err(Close::Gone);
            }
            None => return Err(Close::Gone),
        };
        let room = self.socket.get_mut().take_room();
        match frame {
            Frame::Text(text) => {
                self.idle_since = Instant::now();
                self.open.count_request();
                let call = self.context.call.of_message();
                let entry = CallLine::new(call.clone());
                // A small one was read without asking.
                let room = match room {
                    Some(room) => Some(room),
                    None => self.context.edge.room(&self.context.call.key(), text.len()).await,
                };
                match room {
                    Some(room) => call.keep_room(room),
                    None => {
                        return self
                            .send(vec![refuse(&extract::no_room(), &Lane::default(), &call, entry)])
                            .await;
                    }
                }
                match message::read(text.as_bytes()) {
                    Message::Create { lane, body } => self.ask(lane, Asked { call, entry, body }).await,
                    Message::Steer(refusal) => {
                        entry.end(http::StatusCode::BAD_REQUEST);
                        self.send(vec![refusal.to_string().into()]).await
                    }
                    Message::Wrong { lane, error } => {
                        self.send(vec![refuse(&error, &lane, &call, entry)]).await
                    }
                }
            }
            Frame::Binary(_) => {
                let message = "Send each event as a text message: a binary one is not read.";
                self.refuse(&Lane::default(), &ApiError::new("invalid_json", message)).await
            }
            // Pings are answered below us; the answer goes out here.
            Frame::Ping(_) => self.flush().await,
            Frame::Pong(_) | Frame::Frame(_) => Ok(()),
            // Its answer is on its way once the socket is polled again.
            Frame::Close(_) => {
                let _ = self.socket.flush().await;
                Err(Close::Gone)
            }
        }
    }

    /// Takes a request in, or says why not.
    async fn ask(&mut self, lane: Lane, asked: Asked) -> Result<(), Close> {
        let refused = match self.ending {
            Some(Ending::Old) => Err((asked, self.too_old())),
            Some(Ending::Draining | Ending::NoRoom) => Err((asked, stopping())),
            Some(Ending::Revoked) | None => self.lanes.admit(lane.clone(), asked),
        };
        let Err((Asked { call, entry, .. }, error)) = refused else { return Ok(()) };
        self.send(vec![refuse(&error, &lane, &call, entry)]).await
    }

    /// When there is something to do though nothing happens.
    fn wake(&self) -> Instant {
        let body_timeout = self.context.edge.body_timeout;
        let message = self.socket.get_ref().since().map(|since| since + body_timeout);
        let old = self.ending.is_none().then_some(self.old_at);
        let idle = self.lanes.is_idle().then(|| self.idle_since + self.config.idle_timeout);
        let ping = self.told_at + self.context.edge.stream.keep_alive;
        [message, old, idle].into_iter().flatten().fold(ping, Instant::min)
    }

    async fn check_time(&mut self) -> Result<(), Close> {
        let now = Instant::now();
        if self.ending.is_none() && self.old_at <= now {
            self.ending = Some(Ending::Old);
            let error = self.too_old();
            for (lane, Asked { call, entry, .. }) in self.lanes.give_up() {
                self.send(vec![refuse(&error, &lane, &call, entry)]).await?;
            }
            return Ok(());
        }
        let since = self.socket.get_ref().since();
        if since.is_some_and(|since| since + self.context.edge.body_timeout <= now) {
            let message = "The message was not complete in time (`server.body_timeout`).";
            self.refuse(&Lane::default(), &ApiError::new("request_timeout", message)).await?;
            return Err(Close::With(CloseCode::Policy, "the message was not complete in time"));
        }
        if self.lanes.is_idle() && self.idle_since + self.config.idle_timeout <= now {
            return Err(Close::With(CloseCode::Normal, "nothing was asked for a long time"));
        }
        if self.told_at + self.context.edge.stream.keep_alive <= now {
            self.told_at = now;
            return self.socket.send(Frame::Ping(Bytes::new())).await.map_err(|error| gone(&error));
        }
        Ok(())
    }

    /// The last word of a socket on which nothing runs any more.
    async fn end(&mut self, ending: Ending) -> Result<Close, Close> {
        match ending {
            Ending::Old => {
                let error = self.too_old();
                self.refuse(&Lane::default(), &error).await?;
                Ok(Close::With(CloseCode::Away, "the connection is too old"))
            }
            Ending::Revoked => Ok(Close::With(CloseCode::Policy, "the API key is not valid any more")),
            Ending::Draining => Ok(Close::With(CloseCode::Restart, "the bridge is stopping")),
            Ending::NoRoom => Ok(Close::With(CloseCode::Again, "another connection needs the place")),
        }
    }

    /// Says what is wrong with something that is no request.
    async fn refuse(&mut self, lane: &Lane, error: &ApiError) -> Result<(), Close> {
        let headers = error.headers();
        let event = error.event(lane.name().map(AsRef::as_ref), &headers);
        let event = serde_json::to_vec(&event).unwrap_or_default().into();
        self.send(vec![event]).await
    }

    async fn send(&mut self, events: Vec<Bytes>) -> Result<(), Close> {
        for event in events {
            // JSON is UTF-8.
            let Ok(text) = Utf8Bytes::try_from(event) else { continue };
            self.socket.feed(Frame::Text(text)).await.map_err(|error| gone(&error))?;
        }
        self.told_at = Instant::now();
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Close> {
        self.socket.flush().await.map_err(|error| gone(&error))
    }

    /// Says goodbye, and waits a moment for the client's: without it, it may lose what was said last.
    async fn close(&mut self, code: CloseCode, reason: &'static str, patience: Duration) {
        let goodbye = async {
            let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
            if self.socket.close(Some(frame)).await.is_err() {
                return;
            }
            while let Some(Ok(_)) = self.socket.next().await {}
            // After a mistake of its own the client may still send what nobody reads as messages any more.
            let (stream, mut discarded) = (self.socket.get_mut(), [0; 1024]);
            while matches!(stream.read(&mut discarded).await, Ok(1..)) {
                stream.take_room();
            }
        };
        let _ = tokio::time::timeout(patience, goodbye).await;
    }

    fn too_old(&self) -> ApiError {
        let minutes = self.config.max_age.as_secs().div_ceil(60);
        let message = format!(
            "Responses websocket connection limit reached ({minutes} minutes). Create a new websocket connection to \
             continue."
        );
        ApiError::new("websocket_connection_limit_reached", message)
    }

    fn too_large(&self) -> ApiError {
        let bytes = self.context.edge.max_body_bytes;
        let message = format!("The message is larger than {bytes} bytes (`server.max_body_bytes`).");
        ApiError::new("request_too_large", message)
    }
}

/// As the engine refuses a call on the way down.
fn stopping() -> ApiError {
    ApiError::new("shutting_down", "The bridge is shutting down.")
}

fn gone(error: &Error) -> Close {
    tracing::debug!(%error, "a socket's client takes nothing any more");
    Close::Gone
}
