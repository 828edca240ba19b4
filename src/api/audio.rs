//! Audio on its way in: checked to be what it is called, and written as the app-server takes it. A model without
//! audio would get a sentence in its place; see [`super::items::check_modalities`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::ApiError;
use super::inline_data::{self, DataUrl, Unreadable};
use super::read::{Fields, missing};
use crate::config::AudioConfig;
use crate::tasks::Tasks;

/// The formats that both APIs name.
const FORMATS: &[&str] = &["wav", "mp3"];

/// Checks audio.
#[derive(Debug, Clone)]
pub(crate) struct AudioCheck {
    /// Of one request's audio together.
    max_bytes: usize,
    tasks: Tasks,
}

/// Audio as the client gave it.
pub(crate) struct AudioSource {
    /// How errors name its data.
    pub(crate) param: String,
    /// Base64; some clients send a `data:` URL.
    pub(crate) data: String,
    /// One of [`FORMATS`].
    pub(crate) format: &'static str,
}

impl AudioSource {
    /// Reads `data` and `format`.
    pub(crate) fn read(from: &mut Fields) -> Result<Self, ApiError> {
        let format = from.one_of("format", FORMATS)?.ok_or_else(|| missing(from.param("format")))?;
        Ok(Self { data: from.required_string("data")?, param: from.param("data"), format })
    }
}

/// Not what is said.
impl std::fmt::Debug for AudioSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AudioSource").field("param", &self.param).finish_non_exhaustive()
    }
}

impl AudioCheck {
    pub(crate) fn new(config: &AudioConfig, tasks: Tasks) -> Self {
        Self { max_bytes: config.max_bytes, tasks }
    }

    /// The recordings as `data:` URLs, in order.
    pub(crate) async fn inline(&self, audio: Vec<AudioSource>) -> Result<Vec<String>, ApiError> {
        if audio.is_empty() {
            return Ok(Vec::new());
        }
        let max_bytes = self.max_bytes;
        let work = move || {
            let mut left = max_bytes;
            audio.into_iter().map(|source| inline(source, &mut left, max_bytes)).collect()
        };
        let failed = || ApiError::invalid("input", "The audio could not be read.").with_code("invalid_value");
        self.tasks.blocking(work).await.ok_or_else(failed)?
    }
}

fn inline(source: AudioSource, left: &mut usize, max_bytes: usize) -> Result<String, ApiError> {
    let AudioSource { param, data, format } = source;
    let data = DataUrl::parse(&data).map_or(&*data, |url| url.data);
    let bytes = inline_data::decode(data, *left).map_err(|why| match why {
        Unreadable::Base64 => ApiError::invalid(&*param, "The audio data is not valid base64.")
            .with_code("invalid_base64_audio"),
        Unreadable::TooLarge => {
            let message =
                format!("The request's audio is larger than {max_bytes} bytes (`audio.max_bytes`).");
            ApiError::invalid(&*param, message).with_code("audio_file_too_large")
        }
    })?;
    *left -= bytes.len();
    let (is_it, media_type) = match format {
        "wav" => (is_wav(&bytes), "audio/wav"),
        _ => (is_mp3(&bytes), "audio/mpeg"),
    };
    if !is_it {
        let message = format!("The audio data is not {format}, which its 'format' says it is.");
        return Err(ApiError::invalid(param, message).with_code("invalid_audio"));
    }
    Ok(format!("data:{media_type};base64,{}", STANDARD.encode(bytes)))
}

/// A RIFF file of waves with a chunk in it.
fn is_wav(bytes: &[u8]) -> bool {
    bytes.len() > 20 && matches!(&bytes[..4], b"RIFF" | b"RF64") && &bytes[8..12] == b"WAVE"
}

/// A tag of either version before the sound, or a frame of layer III at the start.
fn is_mp3(bytes: &[u8]) -> bool {
    match bytes {
        [b'I', b'D', b'3', _, _, _, _, _, _, _, _, ..] => true,
        // The sync word, a version that is one, layer III, and a bit rate and sample rate that are not reserved.
        [0xff, second, third, _, ..] => {
            second & 0xe0 == 0xe0
                && second & 0x18 != 0x08
                && second & 0x06 == 0x02
                && third & 0xf0 != 0xf0
                && third & 0x0c != 0x0c
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MP3: &[u8] = b"\xff\xfb\x90\x64\0\0\0\0";

    fn wav() -> Vec<u8> {
        b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0".iter().copied().chain([0; 22]).collect()
    }

    fn source(bytes: &[u8], format: &'static str) -> AudioSource {
        AudioSource { param: "p".into(), data: STANDARD.encode(bytes), format }
    }

    async fn check(max_bytes: usize, audio: Vec<AudioSource>) -> Result<Vec<String>, String> {
        let checked = AudioCheck::new(&AudioConfig { max_bytes }, Tasks::new()).inline(audio).await;
        checked.map_err(|error| {
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some("p")));
            error.code.unwrap()
        })
    }

    #[tokio::test]
    async fn audio_is_written_as_the_app_server_takes_it() {
        let tagged = b"ID3\x04\0\0\0\0\0\0\xff\xfb";
        let urls = check(1000, vec![source(&wav(), "wav"), source(MP3, "mp3"), source(tagged, "mp3")]).await;
        let expected = [("wav", wav()), ("mpeg", MP3.to_vec()), ("mpeg", tagged.to_vec())]
            .map(|(kind, bytes)| format!("data:audio/{kind};base64,{}", STANDARD.encode(bytes)));
        assert_eq!(urls.unwrap(), expected);
        let mut url = source(&wav(), "wav");
        url.data = format!("data:audio/x-wav;base64,{}", url.data);
        assert_eq!(check(1000, vec![url]).await.unwrap(), expected[..1]);
    }

    #[tokio::test]
    async fn what_is_no_audio_of_its_format_is_refused() {
        for (bytes, format) in [
            (MP3, "wav"),
            (&*wav(), "mp3"),
            (b"".as_slice(), "mp3"),
            (b"RIFF".as_slice(), "wav"),
            (b"hello, this is some text".as_slice(), "wav"),
            (b"\xff\xff\xff\xff".as_slice(), "mp3"),
        ] {
            assert_eq!(
                check(1000, vec![source(bytes, format)]).await.unwrap_err(),
                "invalid_audio",
                "{bytes:?}"
            );
        }
        let broken = AudioSource { data: "%%".into(), ..source(b"", "wav") };
        assert_eq!(check(1000, vec![broken]).await.unwrap_err(), "invalid_base64_audio");
        let size = wav().len();
        assert!(check(2 * size, vec![source(&wav(), "wav"), source(&wav(), "wav")]).await.is_ok());
        let two = vec![source(&wav(), "wav"), source(&wav(), "wav")];
        assert_eq!(check(2 * size - 1, two).await.unwrap_err(), "audio_file_too_large");
    }
}
