use std::io::Cursor;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use image::{DynamicImage, ImageFormat};

use super::*;

fn fetcher(config: &ImagesConfig) -> ImageFetcher {
    ImageFetcher::new(config, Tasks::new()).unwrap()
}

fn local() -> ImagesConfig {
    ImagesConfig { allow_private: true, ..ImagesConfig::default() }
}

fn picture(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::new_rgb8(3, 2).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn data(kind: &str, bytes: &[u8]) -> String {
    format!("data:{kind};base64,{}", STANDARD.encode(bytes))
}

async fn inline(fetcher: &ImageFetcher, url: &str) -> Result<String, ApiError> {
    let source = ImageSource { param: "input[0].content[1].image_url".into(), url: url.into() };
    fetcher.inline(vec![source]).await.map(|mut urls| urls.remove(0))
}

async fn code(fetcher: &ImageFetcher, url: &str) -> String {
    let error = inline(fetcher, url).await.expect_err(url);
    assert_eq!(error.param.as_deref(), Some("input[0].content[1].image_url"));
    assert_eq!(error.status, StatusCode::BAD_REQUEST);
    error.code.unwrap()
}

/// A server of pictures on this machine; its address.
async fn serve() -> String {
    let png = async || ([(header::CONTENT_TYPE, "image/png")], picture(ImageFormat::Png));
    let router = Router::new()
        .route("/png", get(png))
        .route("/octets", get(async || picture(ImageFormat::Jpeg)))
        .route("/page", get(|| async { ([(header::CONTENT_TYPE, "text/html")], "<html>") }))
        .route("/liar", get(|| async { ([(header::CONTENT_TYPE, "image/png")], "<html>") }))
        .route("/once", get(|| async { Redirect::temporary("/png") }))
        .route("/loop", get(|| async { Redirect::temporary("/loop") }))
        .route("/file", get(|| async { Redirect::temporary("file:///etc/passwd") }))
        .route("/nowhere", get(|| async { StatusCode::FOUND }))
        .route("/gone", get(|| async { StatusCode::GONE }))
        .route("/endless", get(endless))
        .route("/stuck", get(std::future::pending::<()>));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Tasks::new().spawn("pictures", async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

/// More than it may be, without saying so beforehand.
async fn endless() -> impl IntoResponse {
    let chunks = stream::repeat(Ok::<_, std::convert::Infallible>(vec![0_u8; 4096]));
    ([(header::CONTENT_TYPE, "image/png")], axum::body::Body::from_stream(chunks))
}

#[tokio::test]
async fn what_is_an_image_passes_as_it_is() {
    let fetcher = fetcher(&ImagesConfig::default());
    for (kind, format) in [
        ("image/png", ImageFormat::Png),
        ("image/jpeg", ImageFormat::Jpeg),
        ("image/gif", ImageFormat::Gif),
        ("image/webp", ImageFormat::WebP),
    ] {
        let url = data(kind, &picture(format));
        assert_eq!(inline(&fetcher, &url).await.unwrap(), url);
    }
}

#[tokio::test]
async fn loose_urls_are_tidied() {
    let fetcher = fetcher(&ImagesConfig::default());
    let png = picture(ImageFormat::Png);
    let tidy = data("image/png", &png);
    let encoded = STANDARD.encode(&png);
    let wrapped = format!("{}\r\n{}", &encoded[..20], &encoded[20..]);
    for loose in [
        data("image/jpg", &png),
        format!("DATA:image/png;charset=utf-8;BASE64,{encoded}"),
        format!("data:image/png;base64,{}", encoded.trim_end_matches('=')),
        format!("data:image/png;base64,{wrapped}"),
        format!("data:;base64,{encoded}"),
    ] {
        assert_eq!(inline(&fetcher, &loose).await.unwrap(), tidy, "{loose}");
    }
}

#[tokio::test]
async fn what_is_no_image_is_refused_by_name() {
    let fetcher = fetcher(&ImagesConfig::default());
    let mut cut = picture(ImageFormat::Png);
    cut.truncate(cut.len() / 2);
    assert_eq!(code(&fetcher, &data("image/png", &cut)).await, "image_parse_error");
    assert_eq!(code(&fetcher, &data("image/png", b"hello")).await, "unsupported_image_media_type");
    let bmp = [b"BM".as_slice(), &[0; 64]].concat();
    assert_eq!(code(&fetcher, &data("image/bmp", &bmp)).await, "unsupported_image_media_type");
    assert_eq!(code(&fetcher, "data:image/png;base64,").await, "empty_image_file");
    assert_eq!(code(&fetcher, "data:image/png;base64,%%%").await, "invalid_base64_image");
    for url in ["data:image/png,hello", "data:image/png;base64", "data:", "", "hello", "file:///etc/passwd"] {
        assert_eq!(code(&fetcher, url).await, "invalid_image_url", "{url}");
    }
}

#[tokio::test]
async fn images_have_a_size_limit_inline_and_unpacked() {
    let small = fetcher(&ImagesConfig { max_bytes: 40, ..ImagesConfig::default() });
    let png = data("image/png", &picture(ImageFormat::Png));
    assert_eq!(code(&small, &png).await, "image_file_too_large");
    // A few bytes that unpack to 20,001 pixels a side: only the head is there, and it is enough.
    let mut bomb = picture(ImageFormat::Gif);
    bomb[6..10].copy_from_slice(&[0x21, 0x4e, 0x21, 0x4e]);
    assert_eq!(
        code(&fetcher(&ImagesConfig::default()), &data("image/gif", &bomb)).await,
        "image_parse_error"
    );
}

#[tokio::test]
async fn images_are_fetched_and_inlined_in_order() {
    let (fetcher, server) = (fetcher(&local()), serve().await);
    let paths = ["/png", "/octets", "/once"];
    let source = |path: &&str| ImageSource { param: "input".into(), url: format!("{server}{path}") };
    let urls = fetcher.inline(paths.iter().map(source).collect()).await.unwrap();
    let png = data("image/png", &picture(ImageFormat::Png));
    assert_eq!(urls, [png.clone(), data("image/jpeg", &picture(ImageFormat::Jpeg)), png]);
}

#[tokio::test]
async fn fetches_fail_by_name_and_without_the_address() {
    let (fetcher, server) = (fetcher(&ImagesConfig { max_bytes: 10_000, ..local() }), serve().await);
    for (path, expected) in [
        ("/page", "unsupported_image_media_type"),
        ("/liar", "unsupported_image_media_type"),
        ("/loop", "failed_to_download_image"),
        ("/file", "invalid_image_url"),
        ("/nowhere", "failed_to_download_image"),
        ("/gone", "failed_to_download_image"),
        ("/endless", "image_file_too_large"),
    ] {
        let url = format!("{server}{path}?token=secret");
        assert_eq!(code(&fetcher, &url).await, expected, "{path}");
        let error = inline(&fetcher, &url).await.unwrap_err();
        assert!(
            !error.message.contains("secret") && !error.message.contains("127.0.0.1"),
            "{}",
            error.message
        );
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let limit = Duration::from_millis(50);
    let (fetcher, server) = (fetcher(&ImagesConfig { timeout: limit, ..local() }), serve().await);
    assert_eq!(code(&fetcher, &format!("{server}/stuck")).await, "failed_to_download_image");
}

#[tokio::test]
async fn inline_images_are_never_behind_slow_fetches() {
    let (fetcher, server) = (fetcher(&local()), serve().await);
    let stuck = (0..20).map(|_| inline_owned(&fetcher, format!("{server}/stuck")));
    let stuck = futures_util::future::join_all(stuck);
    let png = data("image/png", &picture(ImageFormat::Png));
    tokio::select! {
        biased;
        _ = stuck => panic!("nothing answers"),
        inlined = async {
            // More than can be fetched at once are under way by now.
            tokio::task::yield_now().await;
            inline(&fetcher, &png).await
        } => assert_eq!(inlined.unwrap(), png),
    }
}

async fn inline_owned(fetcher: &ImageFetcher, url: String) -> Result<String, ApiError> {
    inline(fetcher, &url).await
}

#[tokio::test]
async fn private_addresses_are_refused_by_default() {
    let (fetcher, server) = (fetcher(&ImagesConfig::default()), serve().await);
    let port = server.rsplit(':').next().unwrap();
    assert_eq!(code(&fetcher, &format!("{server}/png")).await, "invalid_image_url");
    for host in ["127.0.0.1", "localhost", "[::1]", "169.254.169.254"] {
        let error = inline(&fetcher, &format!("https://{host}:{port}/png")).await.unwrap_err();
        assert_eq!(error.message, Fault::Forbidden.to_string(), "{host}");
    }
}

#[tokio::test]
async fn fetching_can_be_switched_off() {
    let fetcher = fetcher(&ImagesConfig { fetch: false, ..local() });
    let error = inline(&fetcher, "https://example.com/x.png").await.unwrap_err();
    assert_eq!(error.message, Fault::FetchOff.to_string());
    let url = data("image/png", &picture(ImageFormat::Png));
    assert_eq!(inline(&fetcher, &url).await.unwrap(), url);
}

#[tokio::test]
async fn all_images_of_a_request_have_one_limit() {
    let png = data("image/png", &picture(ImageFormat::Png));
    let source = |n| ImageSource { param: format!("input[{n}]"), url: png.clone() };
    let two =
        ImageFetcher::with_total(&ImagesConfig::default(), Tasks::new(), png.len() * 2 / 4 * 3).unwrap();
    assert_eq!(two.inline((0..2).map(source).collect()).await.unwrap().len(), 2);
    let error = two.inline((0..3).map(source).collect()).await.unwrap_err();
    assert_eq!(error.code.as_deref(), Some("image_file_too_large"));
    assert_eq!(error.param.unwrap(), "input[2]");
}
