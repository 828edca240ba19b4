//! Is it an image, before it is sent: the whole of it is decoded once.

use std::io::Cursor;

use base64::Engine as _;
use image::{ImageFormat, ImageReader, Limits};

use super::{Fault, STANDARD};
use crate::api::inline_data::{self, DataUrl};

/// Memory one image may unpack to, bytes: about 60 megapixels.
const MAX_UNPACKED: u64 = 256 * 1024 * 1024;
/// Longest side, pixels.
const MAX_SIDE: u32 = 20_000;

/// The URL itself if it already says what it holds, else one that does.
pub(super) fn data_url(url: String, max_bytes: usize) -> Result<String, Fault> {
    let DataUrl { media_type, plain, data } = DataUrl::parse(&url).ok_or(Fault::Url)?;
    let bytes = inline_data::decode(data, max_bytes).map_err(|why| Fault::inline(why, max_bytes))?;
    let kind = image(&bytes)?;
    let broken = data.bytes().any(|byte| byte.is_ascii_whitespace());
    let tidy = !broken && data.len().is_multiple_of(4);
    if plain && tidy && media_type == kind {
        return Ok(url);
    }
    Ok(format!("data:{kind};base64,{}", STANDARD.encode(bytes)))
}

/// The media type of what is an image through and through.
pub(super) fn image(bytes: &[u8]) -> Result<&'static str, Fault> {
    if bytes.is_empty() {
        return Err(Fault::Empty);
    }
    let format = image::guess_format(bytes).map_err(|_| Fault::NotAnImage)?;
    let kind = match format {
        ImageFormat::Png => "image/png",
        ImageFormat::Jpeg => "image/jpeg",
        ImageFormat::WebP => "image/webp",
        ImageFormat::Gif => "image/gif",
        _ => return Err(Fault::NotAnImage),
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_UNPACKED);
    reader.limits(limits);
    reader.decode().map_err(|_| Fault::Damaged)?;
    Ok(kind)
}
