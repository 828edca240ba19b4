//! The model catalogue of the installed codex, and the lean one our child runs with.

mod lean;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::SetupError;
use crate::tasks::tether::{self, Tethered};

pub(crate) use lean::lean;

/// `codex debug models` must have answered by then; with a login it may ask the backend first.
const LIMIT: Duration = Duration::from_secs(15);

/// The stock catalogue is about 750 KB; more than this is no catalogue.
const LARGEST: u64 = 64 * 1024 * 1024;

/// The catalogue as `codex debug models` prints it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StockCatalogue {
    document: Value,
    models: BTreeMap<String, StockModel>,
}

/// What the lean catalogue hides of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StockModel {
    /// Tokens the model takes by default.
    pub(crate) context_window: Option<u64>,
    /// Codex gives the backend's own tools to no model with `use_responses_lite`, and says so nowhere.
    pub(crate) web_search: bool,
}

impl StockCatalogue {
    /// Asks the installed codex, in this environment. `program` is our own, by which it is tied to our life.
    pub(crate) async fn read(
        codex: &Path,
        program: Option<&Path>,
        environment: &[(std::ffi::OsString, std::ffi::OsString)],
        codex_config: &[String],
    ) -> Result<Self, SetupError> {
        let mut arguments = vec!["debug".to_owned(), "models".to_owned()];
        for setting in codex_config {
            arguments.extend(["-c".to_owned(), setting.clone()]);
        }
        match tokio::time::timeout(LIMIT, run(codex, program, environment, &arguments)).await {
            Ok(Ok(output)) => return Self::parse(&output),
            Ok(Err(reason)) => {
                tracing::warn!(reason, "`codex debug models` failed; the bundled catalogue is used");
            }
            Err(_) => {
                tracing::warn!(limit = ?LIMIT, "`codex debug models` took too long; the bundled catalogue is used");
            }
        }
        arguments.insert(2, "--bundled".to_owned());
        let output = tokio::time::timeout(LIMIT, run(codex, program, environment, &arguments))
            .await
            .map_err(|_| SetupError::Catalogue(format!("`codex debug models` took longer than {LIMIT:?}")))?
            .map_err(SetupError::Catalogue)?;
        Self::parse(&output)
    }

    /// Reads the printed catalogue.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, SetupError> {
        let document: Value = serde_json::from_slice(text).map_err(|error| {
            SetupError::Catalogue(format!("`codex debug models` printed no JSON: {error}"))
        })?;
        let models: BTreeMap<_, _> = document
            .get("models")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|model| Some((model.get("slug")?.as_str()?.to_owned(), stock_model(model))))
            .collect();
        if models.is_empty() {
            return Err(SetupError::Catalogue("`codex debug models` lists no model".into()));
        }
        Ok(Self { document, models })
    }

    /// The lean form, as the file that the child reads.
    pub(crate) fn to_lean(&self) -> Vec<u8> {
        lean(self.document.clone()).to_string().into_bytes()
    }

    /// What is known of `slug`.
    pub(crate) fn model(&self, slug: &str) -> Option<&StockModel> {
        self.models.get(slug)
    }

    /// How many models there are.
    pub(crate) fn len(&self) -> usize {
        self.models.len()
    }
}

fn stock_model(model: &Value) -> StockModel {
    let tokens = |field| model.get(field).and_then(Value::as_u64);
    StockModel {
        context_window: tokens("context_window").or_else(|| tokens("max_context_window")),
        web_search: model.get("use_responses_lite").and_then(Value::as_bool) != Some(true),
    }
}

async fn run(
    codex: &Path,
    program: Option<&Path>,
    environment: &[(std::ffi::OsString, std::ffi::OsString)],
    arguments: &[String],
) -> Result<Vec<u8>, String> {
    let mut command = tether::command(codex, program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let process = Tethered::spawn(command).map_err(|error| error.to_string())?;
    let (status, output) = process.output(LARGEST).await.map_err(|error| error.to_string())?;
    if status.success() { Ok(output) } else { Err(format!("it ended with {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_windows_are_kept() {
        let stock = StockCatalogue::parse(
            br#"{"models": [
                {"slug": "a", "context_window": 272000, "max_context_window": 872000},
                {"slug": "b", "max_context_window": 5},
                {"slug": "c", "context_window": null},
                {"no_slug": true}
            ]}"#,
        )
        .unwrap();
        let window = |slug| stock.model(slug).unwrap().context_window;
        assert_eq!((window("a"), window("b"), window("c")), (Some(272_000), Some(5), None));
        assert_eq!(stock.len(), 3);
    }

    #[test]
    fn what_is_no_catalogue_is_refused() {
        for text in ["", "nonsense", "{}", r#"{"models": []}"#, r#"{"models": {}}"#] {
            let error = StockCatalogue::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(error, SetupError::Catalogue(_)), "{text:?}: {error}");
        }
    }
}
