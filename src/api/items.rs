//! A conversation on its way in: items in the form `thread/inject_items` takes without loss, built the same
//! way for both APIs.
//!
//! Each item is typed, its content is parts, `system` is `developer`, every image is inline and every file is
//! its text. What the app-server would drop, refuse or rewrite is refused before it gets here.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::audio::{AudioCheck, AudioSource};
use super::error::ApiError;
use super::files::{FileReader, FileSource};
use super::images::{ImageFetcher, ImageSource};
use crate::bridge::Bridge;
use crate::model::Item;

/// What an image, or audio, is taken for before it was read, tokens.
const MEDIUM_TOKENS: usize = 1000;
/// The same of a file.
const FILE_TOKENS: usize = 4000;

/// Items being collected; images, audio and files still where the client left them.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    items: Vec<Map<String, Value>>,
    images: Vec<(Slot, ImageSource)>,
    audio: Vec<(Slot, AudioSource)>,
    files: Vec<(Slot, FileSource)>,
}

/// What reads the media of a request.
#[derive(Debug, Clone)]
pub(crate) struct Media {
    pub(crate) images: ImageFetcher,
    pub(crate) audio: AudioCheck,
    pub(crate) files: FileReader,
}

/// Media that not every model takes: how errors name the first of each kind.
#[derive(Debug, Default)]
pub(crate) struct Modalities {
    image: Option<String>,
    audio: Option<String>,
}

/// One part of a message or of a tool's output.
#[derive(Debug)]
pub(crate) struct Part {
    fields: Map<String, Value>,
    /// What fills one of the fields once it has been read.
    source: Option<Source>,
}

#[derive(Debug)]
enum Source {
    Image(ImageSource),
    Audio(AudioSource),
    File(FileSource),
}

/// A tool call or output whose other half is missing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unpaired {
    /// The app-server would make an output up.
    Call {
        /// The item's place in the draft.
        index: usize,
        /// Its `call_id`.
        call_id: String,
    },
    /// The app-server would drop it.
    Output {
        /// The item's place in the draft.
        index: usize,
        /// Its `call_id`.
        call_id: String,
    },
}

/// Where something goes once it has been read: a field of a part of a field of an item.
#[derive(Debug)]
struct Slot {
    item: usize,
    field: &'static str,
    part: usize,
    member: &'static str,
}

impl Part {
    /// Text that `role` says: the assistant's is output, everybody else's input.
    pub(crate) fn text(role: &str, text: impl Into<String>) -> Self {
        let kind = if role == "assistant" { "output_text" } else { "input_text" };
        let mut part = Self::of(kind, None);
        part.fields.insert("text".into(), text.into().into());
        part
    }

    /// An image by its `data:` or `https:` address; `param` is how errors name that address.
    pub(crate) fn image(url: String, detail: Option<&str>, param: impl Into<String>) -> Self {
        let mut part = Self::of("input_image", Some(Source::Image(ImageSource { param: param.into(), url })));
        part.fields.insert("image_url".into(), Value::Null);
        if let Some(detail) = detail {
            part.fields.insert("detail".into(), detail.into());
        }
        part
    }

    /// Audio, in the form that the app-server takes.
    pub(crate) fn audio(source: AudioSource) -> Self {
        Self::of("input_audio", Some(Source::Audio(source)))
    }

    /// A file, which becomes its text.
    pub(crate) fn file(source: FileSource) -> Self {
        Self::of("input_text", Some(Source::File(source)))
    }

    fn of(kind: &str, source: Option<Source>) -> Self {
        Self { fields: Map::from_iter([("type".to_owned(), kind.into())]), source }
    }

    /// The same part with one more field.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.fields.insert(name.into(), value);
        self
    }
}

impl Draft {
    /// Adds a message. `system` becomes `developer`: the app-server drops `system` without a word.
    pub(crate) fn message(&mut self, role: &str, content: Vec<Part>) {
        let mut fields = Map::new();
        fields.insert("type".into(), "message".into());
        fields.insert("role".into(), if role == "system" { "developer" } else { role }.into());
        self.item_with(fields, "content", content);
    }

    /// Adds an item as it stands; `fields` has its `type`.
    pub(crate) fn item(&mut self, fields: Map<String, Value>) {
        self.items.push(fields);
    }

    /// Adds an item whose `field` is a list of parts.
    pub(crate) fn item_with(
        &mut self,
        mut fields: Map<String, Value>,
        field: &'static str,
        parts: Vec<Part>,
    ) {
        let item = self.items.len();
        let mut values = Vec::with_capacity(parts.len());
        for (part, Part { fields, source }) in parts.into_iter().enumerate() {
            let slot = |member| Slot { item, field, part, member };
            match source {
                Some(Source::Image(source)) => self.images.push((slot("image_url"), source)),
                Some(Source::Audio(source)) => self.audio.push((slot("audio_url"), source)),
                Some(Source::File(source)) => self.files.push((slot("text"), source)),
                None => {}
            }
            values.push(Value::Object(fields));
        }
        fields.insert(field.into(), Value::Array(values));
        self.items.push(fields);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// About how many tokens it is, before anything has been fetched or read.
    pub(crate) fn tokens(&self) -> u64 {
        let bytes: usize = self.items.iter().map(Item::weight_of).sum();
        let media = (self.images.len() + self.audio.len()) * MEDIUM_TOKENS + self.files.len() * FILE_TOKENS;
        u64::try_from(bytes / 4 + media).unwrap_or(u64::MAX)
    }

    /// What the model has to take.
    pub(crate) fn modalities(&self) -> Modalities {
        Modalities {
            image: self.images.first().map(|(_, image)| image.param.clone()),
            audio: self.audio.first().map(|(_, audio)| audio.param.clone()),
        }
    }

    /// The first tool call without its output, else the first output without its call. With `history`, or
    /// with references, calls may be in the part of the conversation that the bridge keeps.
    pub(crate) fn unpaired(&self, history: bool) -> Option<Unpaired> {
        let calls = self.halves(call_of);
        let outputs = self.halves(output_of);
        if let Some((index, call_id)) = first_without(&calls, &outputs) {
            return Some(Unpaired::Call { index, call_id });
        }
        if history || self.items.iter().any(is_reference) {
            return None;
        }
        first_without(&outputs, &calls).map(|(index, call_id)| Unpaired::Output { index, call_id })
    }

    /// Refuses references where the items themselves are to be kept: what they name may be gone sooner.
    pub(crate) fn check_no_references(&self, param: &str) -> Result<(), ApiError> {
        let place = self.items.iter().position(is_reference);
        let Some(index) = place else { return Ok(()) };
        let message = "An item reference cannot be kept in a conversation: send the item itself.";
        Err(ApiError::invalid(format!("{param}[{index}]"), message).with_code("unsupported_value"))
    }

    /// The items, everything that they hold read.
    pub(crate) async fn finish(mut self, media: &Media) -> Result<Vec<Item>, ApiError> {
        let (images, image_sources): (Vec<_>, _) = self.images.into_iter().unzip();
        let (audio, audio_sources): (Vec<_>, _) = self.audio.into_iter().unzip();
        let (files, file_sources): (Vec<_>, _) = self.files.into_iter().unzip();
        // What is cheap to refuse is refused first.
        let recordings = media.audio.inline(audio_sources).await?;
        let (pictures, texts) =
            tokio::try_join!(media.images.inline(image_sources), media.files.texts(file_sources))?;
        let slots = images.iter().chain(&audio).chain(&files);
        for (slot, value) in slots.zip(pictures.into_iter().chain(recordings).chain(texts)) {
            slot.fill(&mut self.items, value);
        }
        Ok(self.items.into_iter().map(Item::new).collect())
    }

    /// How errors name the images.
    #[cfg(test)]
    pub(crate) fn image_params(&self) -> Vec<&str> {
        self.images.iter().map(|(_, image)| image.param.as_str()).collect()
    }

    /// The items as they stand, nothing fetched or read but images' addresses where they were.
    #[cfg(test)]
    pub(crate) fn into_values(mut self) -> Vec<Value> {
        for (slot, image) in self.images {
            slot.fill(&mut self.items, image.url);
        }
        self.items.into_iter().map(Value::Object).collect()
    }

    fn halves(&self, half: impl Fn(&str) -> Option<&'static str>) -> Vec<(usize, Half<'_>)> {
        let mut halves = Vec::new();
        for (index, item) in self.items.iter().enumerate() {
            let field = |name| item.get(name).and_then(Value::as_str);
            if let (Some(kind), Some(call_id)) = (field("type").and_then(&half), field("call_id")) {
                halves.push((index, (kind, call_id)));
            }
        }
        halves
    }
}

impl Slot {
    fn fill(&self, items: &mut [Map<String, Value>], value: String) {
        let field = items.get_mut(self.item).and_then(|item| item.get_mut(self.field));
        if let Some(part) = field.and_then(|parts| parts.get_mut(self.part)).and_then(Value::as_object_mut) {
            part.insert(self.member.into(), value.into());
        }
    }
}

/// Refuses what the model does not take before any of it is fetched, and by its place. The bridge does the same
/// for the whole conversation.
pub(crate) async fn check_modalities(
    bridge: &Bridge,
    model: Option<&str>,
    wanted: Modalities,
) -> Result<(), ApiError> {
    let Modalities { image, audio } = wanted;
    if image.is_none() && audio.is_none() {
        return Ok(());
    }
    let model = bridge.resolve_model(model).await?;
    let image = image.filter(|_| !model.takes_images()).map(|param| (param, "images"));
    let audio = audio.filter(|_| !model.takes_audio()).map(|param| (param, "audio"));
    let Some((param, what)) = image.or(audio) else { return Ok(()) };
    let message = format!("The model '{}' does not take {what}.", model.id);
    Err(ApiError::invalid(param, message).with_code("unsupported_value"))
}

/// A pair's kind (an output of another kind does not answer a call) and its `call_id`.
type Half<'a> = (&'static str, &'a str);

fn first_without(halves: &[(usize, Half<'_>)], others: &[(usize, Half<'_>)]) -> Option<(usize, String)> {
    let others: HashSet<_> = others.iter().map(|(_, half)| half).collect();
    let (index, (_, call_id)) = halves.iter().find(|(_, half)| !others.contains(half))?;
    Some((*index, (*call_id).to_owned()))
}

fn is_reference(item: &Map<String, Value>) -> bool {
    item.get("type").is_some_and(|kind| kind == "item_reference")
}

fn call_of(kind: &str) -> Option<&'static str> {
    match kind {
        "function_call" => Some("function"),
        "custom_tool_call" => Some("custom"),
        _ => None,
    }
}

fn output_of(kind: &str) -> Option<&'static str> {
    match kind {
        "function_call_output" => Some("function"),
        "custom_tool_call_output" => Some("custom"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
