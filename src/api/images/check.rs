//! Is it an image, before it is sent: the whole of it is decoded once.

use std::io::Cursor;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use image::{ImageFormat, ImageReader, Limits};

use super::Fault;

/// Memory one image may unpack to, bytes: about 60 megapixels.
const MAX_UNPACKED: u64 = 256 * 1024 * 1024;
/// Longest side, pixels.
const MAX_SIDE: u32 = 20_000;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The URL itself if it already says what it holds, else one that does.
pub(super) fn data_url(url: String, max_bytes: usize) -> Result<String, Fault> {
    let (head, data) = url.split_once(',').ok_or(Fault::Url)?;
    let parameters = head.get("data:".len()..).ok_or(Fault::Url)?;
    let mut parameters = parameters.split(';').map(str::trim);
    let named = parameters.next().unwrap_or_default();
    if !parameters.any(|parameter| parameter.eq_ignore_ascii_case("base64")) {
        return Err(Fault::Url);
    }
    // Before decoding, and with room for line breaks and padding.
    if data.len() / 4 * 3 > max_bytes.saturating_add(max_bytes / 16) {
        return Err(Fault::TooLarge(max_bytes));
    }
    let wrapped = data.bytes().any(|byte| byte.is_ascii_whitespace());
    let bytes = if wrapped {
        let data: Vec<u8> = data.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        BASE64.decode(data)
    } else {
        BASE64.decode(data)
    };
    let bytes = bytes.map_err(|_| Fault::Base64)?;
    if bytes.len() > max_bytes {
        return Err(Fault::TooLarge(max_bytes));
    }
    let kind = image(&bytes)?;
    let plain = head.len() == "data:;base64".len() + named.len() && head.starts_with("data:");
    if plain && named == kind && !wrapped && data.len().is_multiple_of(4) {
        return Ok(url);
    }
    Ok(format!("data:{kind};base64,{}", BASE64.encode(bytes)))
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
