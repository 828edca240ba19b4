//! Images on their way in: every one is checked to be an image and travels as a `data:` URL, because the
//! app-server takes no other and replaces what it cannot read by a sentence.

mod check;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::error::ApiError;
use super::fetch::{Failure, Fetcher, Rules};
use super::inline_data::{self, Unreadable};
use crate::config::ImagesConfig;
use crate::tasks::Tasks;

/// Images of one request in work at once.
const CONCURRENT: usize = 4;
/// Images of all requests being decoded at once; the others wait. No fetch is waited for under this bound: it
/// has its own, so that inline images are never behind slow servers.
const IN_WORK: usize = 8;
/// All images of one request, bytes: what one message to the app-server can carry as base64.
const MAX_TOTAL_BYTES: usize = 34 * 1024 * 1024;

/// Checks and inlines images. Cheap to clone; all clones share one client and one bound.
#[derive(Debug, Clone)]
pub(crate) struct ImageFetcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fetcher: Fetcher,
    /// Of one image.
    max_bytes: usize,
    /// Of one request's images together.
    max_total: usize,
    in_work: Semaphore,
    tasks: Tasks,
}

/// An image as the client gave it.
pub(crate) struct ImageSource {
    /// How errors name it.
    pub(crate) param: String,
    /// `data:`, `https:`.
    pub(crate) url: String,
}

/// Not its address, which may hold secrets.
impl std::fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageSource").field("param", &self.param).finish_non_exhaustive()
    }
}

impl ImageFetcher {
    /// Fails if there is no TLS to fetch with.
    pub(crate) fn new(config: &ImagesConfig, tasks: Tasks) -> Result<Self, reqwest::Error> {
        Self::with_total(config, tasks, MAX_TOTAL_BYTES)
    }

    fn with_total(config: &ImagesConfig, tasks: Tasks, max_total: usize) -> Result<Self, reqwest::Error> {
        let ImagesConfig { fetch, max_bytes, timeout, max_redirects, allow_private } = *config;
        let takes = |kind: &str| kind.starts_with("image/");
        let accept = "image/*";
        let rules = Rules { fetch, max_bytes, timeout, max_redirects, allow_private, accept, takes };
        let fetcher = Fetcher::new(rules)?;
        let in_work = Semaphore::new(IN_WORK);
        Ok(Self(Arc::new(Inner { fetcher, max_bytes, max_total, in_work, tasks })))
    }

    /// The images as `data:` URLs, in order.
    pub(crate) async fn inline(&self, images: Vec<ImageSource>) -> Result<Vec<String>, ApiError> {
        let inline = |image| async move { self.0.inline(image).await };
        let inlined = stream::iter(images).map(inline).buffered(CONCURRENT);
        let collect = |(mut urls, total): (Vec<String>, usize), (param, url): (String, String)| async move {
            let total = total + url.len();
            if total / 4 * 3 > self.0.max_total {
                return Err(Fault::TotalTooLarge(self.0.max_total).at(&param));
            }
            urls.push(url);
            Ok((urls, total))
        };
        inlined.try_fold((Vec::new(), 0), collect).await.map(|(urls, _)| urls)
    }
}

impl Inner {
    async fn inline(&self, ImageSource { param, url }: ImageSource) -> Result<(String, String), ApiError> {
        let url = if inline_data::is_data_url(&url) {
            let max_bytes = self.max_bytes;
            self.checked(&param, move || check::data_url(url, max_bytes)).await?
        } else {
            let fetched =
                self.fetcher.fetch(&url).await.map_err(|failure| Fault::from(failure).at(&param))?;
            let encode = move || {
                let kind = check::image(&fetched.bytes)?;
                Ok(format!("data:{kind};base64,{}", STANDARD.encode(&fetched.bytes)))
            };
            self.checked(&param, encode).await?
        };
        Ok((param, url))
    }

    /// Decoding takes processor time: off the async threads.
    async fn checked<F>(&self, param: &str, work: F) -> Result<String, ApiError>
    where
        F: FnOnce() -> Result<String, Fault> + Send + 'static,
    {
        let _permit = self.in_work.acquire().await.map_err(|_| unprocessable(param))?;
        let checked = self.tasks.blocking(work).await.ok_or_else(|| unprocessable(param))?;
        checked.map_err(|fault| fault.at(param))
    }
}

/// Why an image cannot be used. Codes are those of the official `response.error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("The image address must be a `data:` URL with base64 data or an `https:` URL.")]
    Url,
    #[error("Images by `https:` address are switched off here (`images.fetch`): send a `data:` URL.")]
    FetchOff,
    #[error("The image's address is not one that images may be fetched from.")]
    Forbidden,
    #[error("The image could not be downloaded: {0}.")]
    Download(String),
    #[error("The image data is not valid base64.")]
    Base64,
    #[error("The image is empty.")]
    Empty,
    #[error("The image is larger than {0} bytes.")]
    TooLarge(usize),
    #[error("The request's images together are larger than {0} bytes.")]
    TotalTooLarge(usize),
    #[error("The data is not an image of a supported type: PNG, JPEG, WebP or GIF.")]
    NotAnImage,
    #[error("The image is damaged, or too large when unpacked, and could not be read.")]
    Damaged,
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Url => Self::Url,
            Failure::Off => Self::FetchOff,
            Failure::Forbidden => Self::Forbidden,
            Failure::Download(what) => Self::Download(what),
            Failure::TooLarge(max) => Self::TooLarge(max),
            Failure::MediaType => Self::NotAnImage,
        }
    }
}

impl Fault {
    fn inline(why: Unreadable, max_bytes: usize) -> Self {
        match why {
            Unreadable::Base64 => Self::Base64,
            Unreadable::TooLarge => Self::TooLarge(max_bytes),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Url | Self::FetchOff | Self::Forbidden => "invalid_image_url",
            Self::Download(_) => "failed_to_download_image",
            Self::Base64 => "invalid_base64_image",
            Self::Empty => "empty_image_file",
            Self::TooLarge(_) | Self::TotalTooLarge(_) => "image_file_too_large",
            Self::NotAnImage => "unsupported_image_media_type",
            Self::Damaged => "image_parse_error",
        }
    }

    fn at(&self, param: &str) -> ApiError {
        ApiError::invalid(param, self.to_string()).with_code(self.code())
    }
}

fn unprocessable(param: &str) -> ApiError {
    Fault::Damaged.at(param)
}

#[cfg(test)]
mod tests;
