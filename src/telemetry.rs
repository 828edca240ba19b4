//! Structured logs on standard error. Field names are the same everywhere: `request_id`, `response_id`,
//! `thread_id`, `turn_id`, `model`, `error`. Request and answer text and secrets are never logged.

mod queue;

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

pub use self::queue::Flush;

use self::queue::Queue;
use crate::config::{LogConfig, LogFormat};

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Another subscriber is there already.
    #[error("logging was set up before")]
    AlreadySet(#[from] tracing::subscriber::SetGlobalDefaultError),
    /// There is no thread to write them.
    #[error("the thread that writes the logs cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// Sets up the process's logs; once. What it gives is kept until the process ends.
pub fn init(config: &LogConfig) -> Result<Flush, TelemetryError> {
    let queue = Queue::start(io::stderr())?;
    let flush = queue.flush();
    let subscriber = subscriber(config, io::stderr().is_terminal(), queue)?;
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(flush)
}

fn subscriber<W>(
    config: &LogConfig,
    color: bool,
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(&config.filter)?)
        .with_ansi(color)
        .with_writer(OneLine { writer, color });
    Ok(match config.format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

/// Bytes of one line; the rest of a longer one is left out, which its end says.
const LONGEST_LINE: usize = 16 * 1024;

/// Makes writers that keep an event on one line of bounded length, whatever a value of it holds: a line that looks
/// like one of ours is one of ours.
struct OneLine<W> {
    writer: W,
    /// Escape sequences are our own colours: the formatter has made those of values harmless.
    color: bool,
}

impl<'writer, W: MakeWriter<'writer>> MakeWriter<'writer> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'writer self) -> Self::Writer {
        OneLine { writer: self.writer.make_writer(), color: self.color }
    }
}

impl<W: Write> Write for OneLine<W> {
    /// One event, whole, as the formatter hands it over.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        let breaks = |byte: &u8| byte.is_ascii_control() && !(self.color && *byte == 0x1b);
        if line.len() <= LONGEST_LINE && !line.iter().any(breaks) {
            self.writer.write_all(event)?;
            return Ok(event.len());
        }
        let (line, rest) = line.split_at(cut(line));
        let mut safe = Vec::with_capacity(line.len() + 64);
        for byte in line {
            if breaks(byte) {
                safe.extend(byte.escape_ascii());
            } else {
                safe.push(*byte);
            }
        }
        if !rest.is_empty() {
            safe.extend(format!("... ({} bytes left out)", rest.len()).into_bytes());
        }
        safe.push(b'\n');
        self.writer.write_all(&safe)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Where a line ends at the latest: between two characters.
fn cut(line: &[u8]) -> usize {
    let is_within = |at: usize| line.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let mut at = line.len().min(LONGEST_LINE);
    while is_within(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let lines = Lines::default();
        let config = LogConfig { format, filter: filter.into() };
        let writer = lines.clone();
        let subscriber = subscriber(&config, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("request", request_id = "req_1").entered();
            tracing::debug!("too fine");
            tracing::info!(status = 200, "answered");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_lines_carry_fields_and_spans_at_known_places() {
        let line: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json, "info")).unwrap();
        assert_eq!(line["message"], "answered");
        assert_eq!(line["status"], 200);
        assert_eq!(line["span"]["request_id"], "req_1");
    }

    #[test]
    fn text_lines_have_no_color_off_a_terminal_and_the_filter_holds() {
        let text = logged(LogFormat::Text, "info");
        assert!(text.contains("answered") && text.contains("req_1"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains("too fine"), "{text}");
        assert!(logged(LogFormat::Text, "debug").contains("too fine"));
    }

    #[test]
    fn no_value_breaks_out_of_its_line() {
        let lines = Lines::default();
        let writer = lines.clone();
        let config = LogConfig { format: LogFormat::Text, filter: "info".into() };
        let subscriber = subscriber(&config, false, move || writer.clone()).unwrap();
        let hostile = "a\n2026-01-01T00:00:00Z  INFO forged: line\r\u{1b}[2J\0\u{9}ü";
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(id = %hostile, "displayed {hostile}");
            tracing::info!(id = hostile, "recorded");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains(['\r', '\u{1b}', '\0', '\t']) && text.contains('ü'), "{text}");
    }

    #[test]
    fn a_line_is_cut_between_two_characters_and_says_so() {
        let lines = Lines::default();
        let writer = lines.clone();
        let config = LogConfig { format: LogFormat::Text, filter: "info".into() };
        let subscriber = subscriber(&config, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            for shift in 0..2 {
                tracing::info!("{}{}", "x".repeat(shift), "ü".repeat(LONGEST_LINE));
            }
            tracing::info!("short");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[..2].iter().all(|line| line.ends_with("bytes left out)")), "not cut");
        assert!(lines[..2].iter().all(|line| line.len() < LONGEST_LINE + 64), "too long");
        assert!(lines.len() == 3 && lines[2].ends_with("short"), "{} lines", lines.len());
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error() {
        let config = LogConfig { format: LogFormat::Text, filter: "a=b=c".into() };
        assert!(matches!(subscriber(&config, false, io::stderr), Err(TelemetryError::Filter(_))));
    }
}
