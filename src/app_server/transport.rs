//! Streams to the app-server, and the WebSocket on them.

mod quick_ack;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::connection::ConnectOptions;
use super::error::AppServerError;
use quick_ack::QuickAck;

/// A frame over about 16 MiB closes the socket at the other end; smaller ones also leave room for pings.
const FRAME_BYTES: usize = 1024 * 1024;
/// The largest message sent. The app-server has been seen to take 30 MB in fragments, and not 70.
pub(super) const MESSAGE_BYTES: usize = 48 * 1024 * 1024;
/// The largest message taken: our own items come back as one, in one frame.
const INCOMING_BYTES: usize = 256 * 1024 * 1024;
/// The longest path of a unix socket that every system takes.
const UNIX_PATH_BYTES: usize = 100;

/// Connects to `ws://host:port`, with small frames sent and acknowledged at once.
pub(super) async fn tcp(url: &str) -> Result<QuickAck, AppServerError> {
    let failed = |reason: String| AppServerError::Connect { endpoint: url.to_owned(), reason };
    let parsed = url::Url::parse(url).map_err(|error| failed(error.to_string()))?;
    if parsed.scheme() != "ws" {
        return Err(failed("only ws:// and unix:// are spoken".into()));
    }
    let host = match parsed.host() {
        Some(url::Host::Domain(name)) => name.to_owned(),
        Some(url::Host::Ipv4(address)) => address.to_string(),
        Some(url::Host::Ipv6(address)) => address.to_string(),
        None => return Err(failed("no host".into())),
    };
    let address = (host.as_str(), parsed.port().unwrap_or(80));
    let stream = TcpStream::connect(address).await.map_err(|error| failed(error.to_string()))?;
    // Small frames wait for nothing.
    stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
    Ok(QuickAck::new(stream))
}

/// Connects to a unix socket; the path may be a symlink.
pub(super) async fn unix(path: &Path) -> Result<UnixStream, AppServerError> {
    let failed = |error: std::io::Error| AppServerError::Connect {
        endpoint: format!("unix://{}", path.display()),
        reason: error.to_string(),
    };
    let short = short_path(path).map_err(failed)?;
    UnixStream::connect(short).await.map_err(failed)
}

/// The WebSocket handshake over a connected stream.
pub(super) async fn handshake<S>(
    stream: S,
    options: &ConnectOptions,
) -> Result<WebSocketStream<S>, AppServerError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let refused = |status, reason: String| AppServerError::Handshake { status, reason };
    let mut request =
        options.url.as_str().into_client_request().map_err(|error| refused(None, error.to_string()))?;
    if let Some(token) = &options.token {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| refused(None, "the token cannot be sent in a header".into()))?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(INCOMING_BYTES))
        .max_frame_size(Some(INCOMING_BYTES));
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Http(response)) => {
            let status = response.status();
            Err(refused(Some(status.as_u16()), format!("HTTP status {status}")))
        }
        Err(error) => Err(refused(None, error.to_string())),
    }
}

/// A text message in frames of at most [`FRAME_BYTES`]; nothing is copied.
pub(super) fn frames(message: Bytes) -> impl Iterator<Item = Message> {
    let mut rest = Some(message);
    let mut opcode = OpCode::Data(Data::Text);
    std::iter::from_fn(move || {
        let mut chunk = rest.take()?;
        if chunk.len() > FRAME_BYTES {
            rest = Some(chunk.split_off(FRAME_BYTES));
        }
        let frame = Frame::message(chunk, opcode, rest.is_none());
        opcode = OpCode::Data(Data::Continue);
        Some(Message::Frame(frame))
    })
}

/// `path` itself, or where it leads if it is too long for a socket address.
fn short_path(path: &Path) -> std::io::Result<PathBuf> {
    if path.as_os_str().len() <= UNIX_PATH_BYTES { Ok(path.to_owned()) } else { path.canonicalize() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_out_in_fragments_that_join_to_it() {
        for size in [0, 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES] {
            let message: Bytes = (0..size).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect();
            let frames: Vec<Frame> = frames(message.clone())
                .map(|message| match message {
                    Message::Frame(frame) => frame,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(frames.len(), size.div_ceil(FRAME_BYTES).max(1), "{size}");
            for (at, frame) in frames.iter().enumerate() {
                let expected = if at == 0 { Data::Text } else { Data::Continue };
                assert_eq!(frame.header().opcode, OpCode::Data(expected));
                assert_eq!(frame.header().is_final, at + 1 == frames.len());
            }
            let joined: Vec<u8> = frames.iter().flat_map(|frame| frame.payload().to_vec()).collect();
            assert_eq!(joined, message);
        }
    }

    #[tokio::test]
    async fn other_schemes_are_refused_by_name() {
        let error = tcp("http://127.0.0.1:1").await.unwrap_err();
        assert!(error.to_string().contains("ws://"), "{error}");
    }

    #[tokio::test]
    async fn a_socket_behind_a_long_symlink_is_reached() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let socket = folder.path().join("s");
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        std::os::unix::fs::symlink(&socket, deep.join("link")).unwrap();
        unix(&deep.join("link")).await.unwrap();
        assert!(matches!(unix(&folder.path().join("none")).await, Err(AppServerError::Connect { .. })));
    }
}
