//! Structured logs on standard error. Field names are the same everywhere: `request_id`, `response_id`,
//! `thread_id`, `turn_id`, `model`, `error`. Request and answer text and secrets are never logged.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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
}

/// Sets up the process's logs; once.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let subscriber = subscriber(config, io::stderr().is_terminal(), io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(())
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
        .with_writer(writer);
    Ok(match config.format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
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
    fn a_filter_that_cannot_be_read_is_an_error() {
        let config = LogConfig { format: LogFormat::Text, filter: "a=b=c".into() };
        assert!(matches!(subscriber(&config, false, io::stderr), Err(TelemetryError::Filter(_))));
    }
}
