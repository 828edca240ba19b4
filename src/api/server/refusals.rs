//! What the HTTP library refuses by itself, before any handler, gets the body that every error of ours has.
//!
//! The library answers a request line or head that it cannot read with a status and nothing else, and has no
//! hook for it. Such an answer is the only one of ours that is an error without a body, and it is one write.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::api::error::ApiError;

/// The library's bare statuses with our codes, and what a client is told.
const REFUSALS: [(&str, &str, &str); 3] = [
    ("400", "invalid_http", "The request line or a header could not be read as HTTP."),
    ("414", "uri_too_long", "The request's address is too long."),
    ("431", "request_header_fields_too_large", "The request's headers are too large."),
];

pub(super) struct Refusals<S> {
    stream: S,
    /// What goes out in place of the library's own answer.
    instead: Option<Instead>,
}

struct Instead {
    bytes: Vec<u8>,
    written: usize,
    /// The length of what it stands for.
    length: usize,
}

impl<S> Refusals<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, instead: None }
    }
}

impl<S: AsyncWrite + Unpin> Refusals<S> {
    /// Writes what stands for `bytes`, if something does. Called again with them until it is through.
    fn poll_instead(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Option<io::Result<usize>>> {
        if self.instead.is_none() {
            self.instead =
                with_body(bytes).map(|new| Instead { bytes: new, written: 0, length: bytes.len() });
        }
        let Some(instead) = &mut self.instead else { return Poll::Ready(None) };
        while instead.written < instead.bytes.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &instead.bytes[instead.written..])) {
                Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::WriteZero.into()))),
                Ok(written) => instead.written += written,
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let length = instead.length;
        self.instead = None;
        Poll::Ready(Some(Ok(length)))
    }
}

/// The whole answer for a bare one of the library's; `None` for any other bytes.
fn with_body(bytes: &[u8]) -> Option<Vec<u8>> {
    const NO_BODY: &str = "content-length: 0\r\n";
    // Longer than any of them.
    let head = bytes.strip_suffix(b"\r\n\r\n").filter(|head| head.len() < 256)?;
    let head = std::str::from_utf8(head).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ").or_else(|| head.strip_prefix("HTTP/1.0 "))?.get(..3)?;
    let (_, code, message) = REFUSALS.iter().find(|(bare, ..)| *bare == status)?;
    let (before, after) = head.split_once(NO_BODY).or_else(|| {
        // The last of the headers.
        head.strip_suffix(NO_BODY.trim_end()).map(|before| (before, ""))
    })?;
    let body = serde_json::to_string(&ApiError::new(code, *message).body()).ok()?;
    let length = body.len();
    let ours = format!(
        "content-type: application/json\r\nx-should-retry: false\r\ncontent-length: {length}\r\n{after}"
    );
    Some(format!("{before}{}\r\n\r\n{body}", ours.trim_end()).into_bytes())
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Refusals<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_instead(cx, bytes)) {
            Some(result) => Poll::Ready(result),
            None => Pin::new(&mut self.stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        if let (Some(only), None) = (filled.next(), filled.next())
            && let Some(result) = ready!(self.poll_instead(cx, only))
        {
            return Poll::Ready(result);
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Refusals<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: &str) -> Option<String> {
        with_body(bytes.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_bare_refusal_gets_a_body() {
        let bare = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let told = told(bare).unwrap();
        let (head, body) = told.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 ") && head.ends_with("\r\ndate: x"), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "request_header_fields_too_large");
    }

    #[test]
    fn anything_else_goes_as_it_is() {
        for bytes in [
            "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 7\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nmore",
            "data: HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            "",
        ] {
            assert_eq!(told(bytes), None, "{bytes}");
        }
        assert_eq!(with_body(b"HTTP/1.1 400 \xff\r\ncontent-length: 0\r\n\r\n"), None);
    }
}
