//! Fetching images by address: bounded in size, time and redirects, each hop checked.

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use url::Url;

use super::Fault;
use super::address::{self, NotPublic, PublicOnly};
use crate::config::ImagesConfig;

/// Fetches images.
#[derive(Debug)]
pub(super) struct Fetcher {
    client: Client,
    config: ImagesConfig,
}

impl Fetcher {
    pub(super) fn new(config: ImagesConfig) -> Result<Self, reqwest::Error> {
        // The client takes the process's provider; whoever set one first chose well enough.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            // Redirects are followed here, where each target is checked; a proxy would resolve names for us.
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(config.timeout)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("codex-bridge/", env!("CARGO_PKG_VERSION")));
        if !config.allow_private {
            client = client.dns_resolver(PublicOnly);
        }
        Ok(Self { client: client.build()?, config })
    }

    /// The bytes behind `url`, all within the time limit.
    pub(super) async fn fetch(&self, url: &str) -> Result<Bytes, Fault> {
        let url = Url::parse(url).map_err(|_| Fault::Url)?;
        if !self.config.fetch {
            return Err(if matches!(url.scheme(), "http" | "https") { Fault::FetchOff } else { Fault::Url });
        }
        let limit = self.config.timeout;
        let late = |_| Fault::Download(format!("it took longer than {limit:?}"));
        tokio::time::timeout(limit, self.follow(url)).await.map_err(late)?
    }

    async fn follow(&self, mut url: Url) -> Result<Bytes, Fault> {
        for _ in 0..=self.config.max_redirects {
            address::check(&url, self.config.allow_private)?;
            let request = self.client.get(url.clone()).header(ACCEPT, "image/*");
            let response = request.send().await.map_err(|error| failed(&error))?;
            let status = response.status();
            if status.is_redirection() {
                url = target(&url, &response)?;
            } else if status.is_success() {
                return self.read(response).await;
            } else {
                return Err(Fault::Download(format!("its server answered {}", status.as_u16())));
            }
        }
        Err(Fault::Download(format!("more than {} redirects", self.config.max_redirects)))
    }

    async fn read(&self, mut response: Response) -> Result<Bytes, Fault> {
        if !may_be_image(&response) {
            return Err(Fault::NotAnImage);
        }
        let max = self.config.max_bytes;
        let announced = response.content_length().unwrap_or(0);
        if usize::try_from(announced).map_or(true, |announced| announced > max) {
            return Err(Fault::TooLarge(max));
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
            if bytes.len() + chunk.len() > max {
                return Err(Fault::TooLarge(max));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

fn target(from: &Url, response: &Response) -> Result<Url, Fault> {
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let target = location.and_then(|location| from.join(location).ok());
    target.ok_or_else(|| Fault::Download("it redirects to nowhere".into()))
}

/// The content itself is looked at later; this keeps other documents from being read at all. Stores that do
/// not know what they hold call it a stream of octets.
fn may_be_image(response: &Response) -> bool {
    let Some(kind) = response.headers().get(CONTENT_TYPE) else { return true };
    let kind = kind.to_str().unwrap_or_default().to_ascii_lowercase();
    kind.starts_with("image/") || kind.contains("octet-stream")
}

/// Says what failed without the address, which may hold secrets.
fn failed(error: &reqwest::Error) -> Fault {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<NotPublic>() {
            return Fault::Forbidden;
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
    Fault::Download(what.into())
}
