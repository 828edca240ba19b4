//! Files on their way in: the app-server takes none, so that their text goes in as a part of its own.
//!
//! This is the one place where text is added that is not literally the client's: two lines around the file's
//! text that say where it begins and ends and what it is called. The lines carry an id made from the text
//! itself, so that no text can hold the line that ends it.

mod kind;
pub mod pdf;
mod reader;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use url::Url;

use self::kind::Kind;
use self::pdf::{Limits, PdfFault};
use self::reader::{PdfReader, Unread};
use super::error::ApiError;
use super::fetch::{Failure, Fetcher, Rules, essence};
use super::inline_data::{self, DataUrl, Unreadable};
use super::read::{Fields, missing};
use crate::config::FilesConfig;
use crate::tasks::Tasks;

/// Files of one request in work at once.
const CONCURRENT: usize = 4;
/// Files of all requests being decoded at once; the others wait.
const IN_WORK: usize = 4;
/// Longest name, characters.
const MAX_NAME: usize = 255;

/// Reads files. Cheap to clone; all clones share one client and one bound.
#[derive(Debug, Clone)]
pub(crate) struct FileReader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fetcher: Fetcher,
    pdf: PdfReader,
    /// Of one file, bytes.
    max_bytes: usize,
    /// Of one request's files together, bytes.
    max_text: usize,
    /// Of one PDF.
    max_pages: usize,
    in_work: Semaphore,
    tasks: Tasks,
}

/// A file as the client gave it.
#[derive(Debug)]
pub(crate) struct FileSource {
    /// How errors name it.
    pub(crate) param: String,
    /// What the client calls it.
    pub(crate) name: Option<String>,
    pub(crate) content: Content,
}

/// Where a file's bytes are.
pub(crate) enum Content {
    /// Base64, by itself or in a `data:` URL.
    Inline(String),
    /// An address, which may hold secrets and is never shown.
    Address(String),
}

impl FileSource {
    /// Reads `file_data`, `filename` and, where `addresses` are taken, `file_url`.
    pub(crate) fn read(from: &mut Fields, addresses: bool) -> Result<Self, ApiError> {
        if from.has("file_id") {
            let other = if addresses { "`file_data` or `file_url`" } else { "`file_data`" };
            let message = format!("Files by id are not supported: send {other}.");
            return Err(ApiError::invalid(from.param("file_id"), message).with_code("unsupported_value"));
        }
        let name = from.string("filename")?;
        let data = from.string("file_data")?;
        let url = if addresses { from.string("file_url")? } else { None };
        let (member, content) = match (data, url) {
            (Some(data), None) => ("file_data", Content::Inline(data)),
            (None, Some(url)) => ("file_url", Content::Address(url)),
            (None, None) => return Err(missing(from.param("file_data"))),
            (Some(_), Some(_)) => {
                let message = "'file_data' and 'file_url' are two files: send one of them.";
                return Err(ApiError::invalid(from.param("file_url"), message).with_code("invalid_value"));
            }
        };
        Ok(Self { param: from.param(member), name, content })
    }
}

/// Neither the file nor its address.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Inline(_) => "Inline",
            Self::Address(_) => "Address",
        })
    }
}

impl FileReader {
    /// Fails if there is no TLS to fetch with. `program` is our own.
    pub(crate) fn new(
        config: &FilesConfig,
        program: Option<PathBuf>,
        tasks: Tasks,
    ) -> Result<Self, reqwest::Error> {
        let FilesConfig { fetch, max_bytes, max_text_bytes, max_pages, timeout, max_redirects, .. } = *config;
        let fetcher = Fetcher::new(Rules {
            fetch,
            max_bytes,
            timeout,
            max_redirects,
            allow_private: config.allow_private,
            accept: "*/*",
            takes: kind::may_be_readable,
        })?;
        let limits = Limits {
            pages: max_pages,
            text: max_text_bytes,
            memory: config.pdf_memory,
            time: config.pdf_timeout,
        };
        Ok(Self(Arc::new(Inner {
            fetcher,
            pdf: PdfReader::new(program, limits),
            max_bytes,
            max_text: max_text_bytes,
            max_pages,
            in_work: Semaphore::new(IN_WORK),
            tasks,
        })))
    }

    /// The files as the texts that the model gets, in order.
    pub(crate) async fn texts(&self, files: Vec<FileSource>) -> Result<Vec<String>, ApiError> {
        let mut read = stream::iter(files).map(|file| self.0.read(file)).buffered(CONCURRENT);
        let (mut texts, mut left) = (Vec::new(), self.0.max_text);
        while let Some(file) = read.next().await {
            let (param, text) = file?;
            let rest = left.checked_sub(text.len());
            left = rest.ok_or_else(|| Fault::TotalText(self.0.max_text).at(&param))?;
            texts.push(text);
        }
        Ok(texts)
    }
}

impl Inner {
    /// The file's param and its text between its two lines.
    async fn read(&self, file: FileSource) -> Result<(String, String), ApiError> {
        let FileSource { param, name, content } = file;
        let text = self.text(name, content).await.map_err(|fault| fault.at(&param))?;
        Ok((param, text))
    }

    async fn text(&self, name: Option<String>, content: Content) -> Result<String, Fault> {
        let (bytes, media_type, name, _under_way) = match content {
            Content::Inline(data) => {
                let max_bytes = self.max_bytes;
                let (bytes, media_type) = self.work(move || decode(&data, max_bytes)).await?;
                (bytes, media_type, name, None)
            }
            Content::Address(url) => {
                let fetched = self.fetcher.fetch(&url).await?;
                let name = name.or_else(|| name_in(&url));
                (fetched.bytes.clone(), fetched.media_type.clone(), name, Some(fetched))
            }
        };
        let name = name.filter(|name| !name.is_empty());
        if name.as_ref().is_some_and(|name| name.chars().count() > MAX_NAME) {
            return Err(Fault::Name);
        }
        let text = match kind::of(&bytes, media_type.as_deref(), name.as_deref())? {
            Kind::Text(encoding) => {
                self.work(move || kind::text(&bytes, encoding).map(Cow::into_owned)).await?
            }
            Kind::Pdf => self.pdf.text(bytes).await.map_err(|unread| self.unread(unread))?,
        };
        if text.len() > self.max_text {
            return Err(Fault::TotalText(self.max_text));
        }
        Ok(between_lines(name.as_deref(), &text))
    }

    fn unread(&self, unread: Unread) -> Fault {
        match unread {
            Unread::Fault(PdfFault::Damaged) => Fault::Damaged,
            Unread::Fault(PdfFault::Encrypted) => Fault::Encrypted,
            Unread::Fault(PdfFault::NoText) => Fault::NoText,
            Unread::Fault(PdfFault::Pages) => Fault::Pages(self.max_pages),
            Unread::Fault(PdfFault::Text) => Fault::TotalText(self.max_text),
            Unread::Late(limit) => Fault::Late(limit),
            Unread::NotRun(reason) => {
                tracing::error!(reason, "PDFs cannot be read: the process that reads them does not run");
                Fault::NotRun
            }
        }
    }

    /// Decoding takes processor time: off the async threads.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let _permit = self.in_work.acquire().await.map_err(|_| Fault::NotText)?;
        self.tasks.blocking(work).await.unwrap_or(Err(Fault::NotText))
    }
}

/// The bytes, and their type where a `data:` URL says it.
fn decode(data: &str, max_bytes: usize) -> Result<(Bytes, Option<String>), Fault> {
    let (data, media_type) = if inline_data::is_data_url(data) {
        let url = DataUrl::parse(data).ok_or(Fault::Base64)?;
        (url.data, Some(essence(url.media_type)).filter(|kind| !kind.is_empty()))
    } else {
        (data, None)
    };
    let bytes = inline_data::decode(data, max_bytes).map_err(|why| match why {
        Unreadable::Base64 => Fault::Base64,
        Unreadable::TooLarge => Fault::TooLarge(max_bytes),
    })?;
    Ok((bytes.into(), media_type))
}

/// The last step of an address's path; its query, where tokens stand, is not looked at.
fn name_in(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let last = url.path_segments()?.next_back()?;
    Some(last.to_owned())
}

/// The text between a line that names the file and a line that ends it. Both carry an id that is a digest of
/// name and text: a text would have to hold its own digest to pass for more than one file. The same file is the
/// same text each time, so that a conversation that comes again is known again.
fn between_lines(name: Option<&str>, text: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(name.unwrap_or_default());
    digest.update([0]);
    digest.update(text);
    let id = digest.finalize()[..8].iter().fold(0_u64, |id, byte| id << 8 | u64::from(*byte));
    // Quoted as in JSON: on one line, whatever is in it.
    let name = name.map(|name| format!(" name={}", serde_json::Value::from(name))).unwrap_or_default();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("<file id={id:016x}{name}>\n{text}{end}</file id={id:016x}>")
}

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("The file's address must be an `https:` URL.")]
    Url,
    #[error("Files by `https:` address are switched off here (`files.fetch`): send `file_data`.")]
    FetchOff,
    #[error("The file's address is not one that files may be fetched from.")]
    Forbidden,
    #[error("The file could not be downloaded: {0}.")]
    Download(String),
    #[error("The file data is not valid base64, by itself or in a `data:` URL.")]
    Base64,
    #[error("The file's name is longer than {MAX_NAME} characters.")]
    Name,
    #[error("The file is empty.")]
    Empty,
    #[error("The file is larger than {0} bytes (`files.max_bytes`).")]
    TooLarge(usize),
    #[error(
        "The text of the request's files is larger than {0} bytes (`files.max_text_bytes`): send less of it."
    )]
    TotalText(usize),
    #[error("The file is an image: send it as an image part.")]
    Image,
    #[error("Files of this type are not supported: send its text, or a PDF that has text.")]
    Unsupported,
    #[error("The file is called a PDF and is none.")]
    NotPdf,
    #[error("The file is neither text nor a PDF: send text as UTF-8, or as UTF-16 with a byte order mark.")]
    NotText,
    #[error("The PDF is encrypted: send it without a password.")]
    Encrypted,
    #[error("The PDF has no text, only pictures: send its pages as images.")]
    NoText,
    #[error("The PDF has more pages than the {0} that are read (`files.max_pages`): send a part of it.")]
    Pages(usize),
    #[error("The PDF is damaged, or takes too much to read, and could not be read: send its text.")]
    Damaged,
    #[error("The PDF could not be read within {0:?} (`files.pdf_timeout`): send its text, or a part of it.")]
    Late(Duration),
    #[error("PDFs cannot be read here at the moment.")]
    NotRun,
}

impl Fault {
    fn code(&self) -> &'static str {
        match self {
            Self::Url | Self::FetchOff | Self::Forbidden => "invalid_file_url",
            Self::Download(_) => "failed_to_download_file",
            Self::Base64 => "invalid_base64_file",
            Self::Name => "string_above_max_length",
            Self::Empty => "empty_file",
            Self::TooLarge(_) | Self::TotalText(_) | Self::Pages(_) => "file_too_large",
            Self::Image | Self::Unsupported | Self::NotPdf | Self::NotText => "unsupported_file",
            Self::Encrypted => "encrypted_file",
            Self::NoText => "file_without_text",
            Self::Damaged | Self::Late(_) => "file_parse_error",
            Self::NotRun => "file_reader_unavailable",
        }
    }

    fn at(&self, param: &str) -> ApiError {
        if *self == Self::NotRun {
            return ApiError::new(self.code(), self.to_string());
        }
        ApiError::invalid(param, self.to_string()).with_code(self.code())
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Url => Self::Url,
            Failure::Off => Self::FetchOff,
            Failure::Forbidden => Self::Forbidden,
            Failure::Download(what) => Self::Download(what),
            Failure::TooLarge(max) => Self::TooLarge(max),
            Failure::MediaType => Self::Unsupported,
        }
    }
}
