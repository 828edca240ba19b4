//! Fetching what a request gives by address: bounded in number, size, time and redirects, each hop checked.

mod address;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use self::address::{NotPublic, PublicOnly};

/// Fetches of one kind under way at once; the others wait. With the size limit this bounds their memory.
const AT_ONCE: usize = 8;

/// What may be fetched.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Whether anything is.
    pub(crate) fetch: bool,
    /// Largest body, bytes.
    pub(crate) max_bytes: usize,
    /// One fetch must be through by then.
    pub(crate) timeout: Duration,
    /// Redirects followed; each target is checked again.
    pub(crate) max_redirects: usize,
    /// Whether private and loopback addresses may be fetched from.
    pub(crate) allow_private: bool,
    /// For the `Accept` header.
    pub(crate) accept: &'static str,
    /// Which media types are read at all. What comes without a type, or as a stream of octets, always is:
    /// stores that do not know what they hold call it so.
    pub(crate) takes: fn(&str) -> bool,
}

/// Fetches things of one kind.
#[derive(Debug)]
pub(crate) struct Fetcher {
    client: Client,
    rules: Rules,
    under_way: Arc<Semaphore>,
}

/// What an address held. It counts as under way for as long as it is kept.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    /// Its media type without parameters, in small letters; `None` if it came without one.
    pub(crate) media_type: Option<String>,
    _under_way: OwnedSemaphorePermit,
}

/// Why something could not be fetched. Addresses may hold secrets and are never in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Not an address that anything is fetched from.
    Url,
    /// Switched off by the configuration.
    Off,
    /// A private address.
    Forbidden,
    /// The transfer failed: a clause for people.
    Download(String),
    /// Larger than so many bytes.
    TooLarge(usize),
    /// A media type that is not taken.
    MediaType,
}

impl Fetcher {
    /// Fails if there is no TLS to fetch with.
    pub(crate) fn new(rules: Rules) -> Result<Self, reqwest::Error> {
        // The client takes the process's provider; whoever set one first chose well enough.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            // Redirects are followed here, where each target is checked; a proxy would resolve names for us.
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(rules.timeout)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("codex-bridge/", env!("CARGO_PKG_VERSION")));
        if !rules.allow_private {
            client = client.dns_resolver(PublicOnly);
        }
        Ok(Self { client: client.build()?, rules, under_way: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// What is behind `url`, all within the time limit, which starts when it is its turn.
    pub(crate) async fn fetch(&self, url: &str) -> Result<Fetched, Failure> {
        let url = Url::parse(url).map_err(|_| Failure::Url)?;
        if !self.rules.fetch {
            return Err(if matches!(url.scheme(), "http" | "https") { Failure::Off } else { Failure::Url });
        }
        let closed = |_| Failure::Download("the daemon stops".into());
        let under_way = self.under_way.clone().acquire_owned().await.map_err(closed)?;
        let limit = self.rules.timeout;
        let late = |_| Failure::Download(format!("it took longer than {limit:?}"));
        let (bytes, media_type) = tokio::time::timeout(limit, self.follow(url)).await.map_err(late)??;
        Ok(Fetched { bytes, media_type, _under_way: under_way })
    }

    async fn follow(&self, mut url: Url) -> Result<(Bytes, Option<String>), Failure> {
        for _ in 0..=self.rules.max_redirects {
            address::check(&url, self.rules.allow_private)?;
            let request = self.client.get(url.clone()).header(ACCEPT, self.rules.accept);
            let response = request.send().await.map_err(|error| failed(&error))?;
            let status = response.status();
            if status.is_redirection() {
                url = target(&url, &response)?;
            } else if status.is_success() {
                let media_type = media_type(&response);
                return Ok((self.read(response, media_type.as_deref()).await?, media_type));
            } else {
                return Err(Failure::Download(format!("its server answered {}", status.as_u16())));
            }
        }
        Err(Failure::Download(format!("more than {} redirects", self.rules.max_redirects)))
    }

    /// The content itself is looked at later; the type keeps other documents from being read at all.
    async fn read(&self, mut response: Response, media_type: Option<&str>) -> Result<Bytes, Failure> {
        if media_type.is_some_and(|kind| !kind.contains("octet-stream") && !(self.rules.takes)(kind)) {
            return Err(Failure::MediaType);
        }
        let max = self.rules.max_bytes;
        let announced = response.content_length().unwrap_or(0);
        if usize::try_from(announced).map_or(true, |announced| announced > max) {
            return Err(Failure::TooLarge(max));
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
            if bytes.len() + chunk.len() > max {
                return Err(Failure::TooLarge(max));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

fn target(from: &Url, response: &Response) -> Result<Url, Failure> {
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let target = location.and_then(|location| from.join(location).ok());
    target.ok_or_else(|| Failure::Download("it redirects to nowhere".into()))
}

fn media_type(response: &Response) -> Option<String> {
    let kind = response.headers().get(CONTENT_TYPE)?.to_str().unwrap_or_default();
    Some(essence(kind))
}

/// A media type without its parameters, in small letters.
pub(crate) fn essence(kind: &str) -> String {
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Says what failed without the address, which may hold secrets.
fn failed(error: &reqwest::Error) -> Failure {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<NotPublic>() {
            return Failure::Forbidden;
        }
        source = cause.source();
    }
    let what = if error.is_timeout() {
        "its server did not answer in time"
    } else if error.is_connect() {
        "its server could not be reached"
    } else {
        "the connection broke"
    };
    Failure::Download(what.into())
}
