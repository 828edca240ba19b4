//! Task classes: a request that names one has its defaults where it is silent. By header or `metadata`, in the
//! order in which sessions are looked for: the header first.

mod figures;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

pub(crate) use self::figures::{Fate, Figures, Report};
use super::error::ApiError;
use crate::bridge::Bridge;
use crate::config::{ClassConfig, ClassesConfig};
use crate::model::{TaskClass, TurnRequest};

pub(crate) const X_TASK_CLASS: &str = "x-codex-bridge-task-class";
/// In the body's `metadata`.
pub(crate) const MEMBER: &str = "task_class";

/// All classes. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Classes(Arc<BTreeMap<String, Arc<Class>>>);

/// One class, with what its calls came to.
#[derive(Debug)]
struct Class {
    id: TaskClass,
    config: ClassConfig,
    figures: Figures,
}

/// The class of one request. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    class: Arc<Class>,
    told: Told,
}

/// What a class did to a request, for the trace and the dry run. No text of anybody's.
#[derive(Debug, Clone, JsonSchema, Serialize)]
pub(crate) struct Told {
    name: String,
    /// `header` or `body`.
    source: &'static str,
    /// The defaults that were taken; deadline and priority where the request has no lower ones.
    set: Map<String, Value>,
    /// Defaults that the model does not take, or a model that the key may not have.
    skipped: Vec<&'static str>,
    /// The key of the text that went before the instructions.
    instruction_prefix: Option<String>,
}

/// What a request may leave to its class.
#[derive(Debug)]
pub(crate) struct Silent<'a> {
    pub(crate) model: &'a mut Option<String>,
    pub(crate) verbosity: &'a mut Option<&'static str>,
    pub(crate) max_output_tokens: &'a mut Option<u64>,
}

impl Classes {
    /// As configured.
    pub(crate) fn new(config: &ClassesConfig) -> Self {
        let class = |(name, config): (&String, &ClassConfig)| {
            let id = TaskClass::new(name.as_str());
            (name.clone(), Arc::new(Class { id, config: config.clone(), figures: Figures::default() }))
        };
        Self(Arc::new(config.0.iter().map(class).collect()))
    }

    /// The class that a request names, its defaults filled in where it is silent, but for
    /// [the effort](Chosen::choose_effort); its model only where the caller's key has it.
    pub(crate) fn choose(
        &self,
        header: Option<&str>,
        metadata: &BTreeMap<String, String>,
        allowed: impl Fn(&str) -> bool,
        silent: Silent<'_>,
    ) -> Result<Option<Chosen>, ApiError> {
        let Some(class) = self.named(header, metadata)? else { return Ok(None) };
        let source = if header.is_some() { "header" } else { "body" };
        let Silent { model, verbosity, max_output_tokens } = silent;
        let ClassConfig { deadline, priority, .. } = class.config;
        let (mut set, mut skipped) = (Map::new(), Vec::new());
        match class.config.model.as_ref().filter(|_| model.is_none()) {
            Some(default) if allowed(default) => {
                set.insert("model".into(), default.as_str().into());
                *model = Some(default.clone());
            }
            Some(_) => skipped.push("model"),
            None => {}
        }
        if let Some(default) = class.config.verbosity.filter(|_| verbosity.is_none()) {
            set.insert("verbosity".into(), default.into());
            *verbosity = Some(default);
        }
        if let Some(default) = class.config.max_output_tokens.filter(|_| max_output_tokens.is_none()) {
            set.insert("max_output_tokens".into(), default.into());
            *max_output_tokens = Some(default);
        }
        if let Some(deadline) = deadline {
            set.insert("deadline_seconds".into(), json!(deadline.as_secs_f64()));
        }
        if let Some(priority) = priority {
            set.insert("priority".into(), priority.as_str().into());
        }
        let name = class.id.as_str().to_owned();
        let prefix = class.config.instruction_prefix.as_ref();
        let instruction_prefix = prefix.map(|_| format!("classes.{name}.instruction_prefix"));
        let told = Told { name, source, set, skipped, instruction_prefix };
        Ok(Some(Chosen { class, told }))
    }

    /// What the calls of each class came to.
    pub(crate) fn report(&self) -> BTreeMap<String, Report> {
        self.0.iter().map(|(name, class)| (name.clone(), class.figures.report())).collect()
    }

    fn named(
        &self,
        header: Option<&str>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Option<Arc<Class>>, ApiError> {
        let (name, param) = match (header, metadata.get(MEMBER)) {
            (Some(name), _) => (name, X_TASK_CLASS.to_owned()),
            (None, Some(name)) => (name.as_str(), format!("metadata.{MEMBER}")),
            (None, None) => return Ok(None),
        };
        let class = self.0.get(name).cloned().map(Some);
        class.ok_or_else(|| {
            let known: Vec<String> = self.0.keys().map(|name| format!("'{name}'")).collect();
            let message = format!("Unknown task class in '{param}'. There are: {}.", known.join(", "));
            ApiError::invalid(param, message).with_code("unknown_task_class")
        })
    }
}

impl Chosen {
    /// Fills in the effort, where the request names none: the first of the class that `model` takes.
    pub(crate) async fn choose_effort(
        &mut self,
        bridge: &Bridge,
        model: Option<&str>,
        effort: &mut Option<String>,
    ) -> Result<(), ApiError> {
        let defaults = &self.class.config.effort;
        if effort.is_some() || defaults.is_empty() {
            return Ok(());
        }
        let takes = bridge.resolve_model(model).await?.efforts;
        match defaults.iter().find(|effort| takes.contains(effort)) {
            Some(default) => {
                self.told.set.insert("effort".into(), default.as_str().into());
                *effort = Some(default.clone());
            }
            None => self.told.skipped.push("effort"),
        }
        Ok(())
    }

    /// What the engine has to know of it: of deadline and priority the lower one counts.
    pub(crate) fn complete(&self, request: &mut TurnRequest) {
        let ClassConfig { deadline, priority, instruction_prefix, .. } = &self.class.config;
        request.task_class = Some(self.class.id.clone());
        request.deadline = request.deadline.into_iter().chain(*deadline).min();
        request.priority = request.priority.or_lower(priority.unwrap_or_default());
        if let Some(prefix) = instruction_prefix {
            let said = request.instructions.take().map(|said| format!("\n\n{said}")).unwrap_or_default();
            request.instructions = Some(prefix.clone() + &said);
        }
    }

    pub(crate) fn told(&self) -> &Told {
        &self.told
    }

    pub(crate) fn name(&self) -> &str {
        &self.told.name
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.class.figures
    }
}

/// What the head names. Two that differ, or what is no text, is a name that no class has.
pub(crate) fn header(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(X_TASK_CLASS).iter();
    let first = values.next()?;
    let same = values.all(|other| other == first);
    Some(first.to_str().ok().filter(|_| same).unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests;
