//! `codex-bridge models`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::flags::Flags;
use crate::config::Profile;
use crate::model::ModelInfo;
use crate::{app, telemetry};

#[derive(Debug, Args)]
pub(super) struct Models {
    #[command(flatten)]
    flags: Flags,
    /// One JSON document, hidden models included
    #[arg(long)]
    json: bool,
}

impl Models {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.flags.load(Profile::Serve)?.config;
        let _logs = telemetry::init(&config.log)?;
        let models = super::runtime()?.block_on(app::models(config))?;
        super::say(&if self.json { as_json(&models) } else { as_text(&models) })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn as_text(models: &[ModelInfo]) -> String {
    let listed = || models.iter().filter(|model| !model.hidden);
    let width = listed().map(|model| model.id.len()).max().unwrap_or(0);
    let mut text = String::new();
    for model in listed() {
        let default = if model.is_default { "  (default)" } else { "" };
        let efforts = model.efforts.join(", ");
        let _ = writeln!(text, "{:width$}  {efforts}{default}", model.id);
    }
    text
}

fn as_json(models: &[ModelInfo]) -> String {
    let models: Vec<serde_json::Value> = models
        .iter()
        .map(|model| {
            json!({
                "id": model.id,
                "display_name": model.display_name,
                "description": model.description,
                "hidden": model.hidden,
                "is_default": model.is_default,
                "efforts": model.efforts,
                "default_effort": model.default_effort,
                "input_modalities": model.input_modalities,
                "service_tiers": model.service_tiers,
                "context_window": model.context_window,
                "web_search": model.web_search,
            })
        })
        .collect();
    format!("{:#}", json!({"models": models}))
}
