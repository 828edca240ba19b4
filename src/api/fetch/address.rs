//! Which addresses may be fetched from: public ones, unless the configuration says otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::Failure;

/// A name that leads to no public address.
#[derive(Debug, thiserror::Error)]
#[error("no public address")]
pub(super) struct NotPublic;

/// Checks what can be known before a connection: the scheme, and a host that is an address. Names are
/// checked by [`PublicOnly`] as they are resolved for the connection itself, so that nothing can change
/// between the check and the use.
pub(super) fn check(url: &Url, allow_private: bool) -> Result<(), Failure> {
    match url.scheme() {
        "https" => {}
        "http" if allow_private => {}
        _ => return Err(Failure::Url),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Failure::Url);
    }
    let public = match url.host().ok_or(Failure::Url)? {
        Host::Domain(_) => true,
        Host::Ipv4(address) => is_public_v4(address),
        Host::Ipv6(address) => is_public_v6(address),
    };
    if public || allow_private { Ok(()) } else { Err(Failure::Forbidden) }
}

/// Resolves names to their public addresses only.
#[derive(Debug)]
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(NotPublic.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// IANA's special-purpose registry, what is not "globally reachable", and multicast.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    )
}

/// Global unicast (`2000::/3`) without its special ranges; an address that carries an IPv4 address is as
/// public as that one.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // v4-mapped; NAT64's well-known prefix; 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments (Teredo, ORCHID, benchmarking), documentation.
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.9.9",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "5f00::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn other_addresses_are_public() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::",
            "2606:4700::1111",
            "2a00:1450:4001::200e",
            "2001:4860:4860::8888",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn addresses_in_disguise_are_seen_through() {
        for url in [
            "https://127.0.0.1/x",
            "https://127.1/x",
            "https://0x7f000001/x",
            "https://2130706433/x",
            "https://0177.0.0.1/x",
            "https://[::1]/x",
            "https://[::ffff:7f00:1]/x",
            "https://１２７.0.0.1/x",
            "https://169.254.169.254/latest/meta-data",
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(check(&url, false), Err(Failure::Forbidden), "{url}");
            assert_eq!(check(&url, true), Ok(()), "{url}");
        }
    }

    #[test]
    fn only_https_without_credentials() {
        for url in
            ["http://example.com/", "ftp://example.com/", "file:///etc/passwd", "https://u:p@example.com/"]
        {
            assert_eq!(check(&Url::parse(url).unwrap(), false), Err(Failure::Url), "{url}");
        }
        assert_eq!(check(&Url::parse("https://example.com:8443/a?b").unwrap(), false), Ok(()));
        assert_eq!(check(&Url::parse("http://example.com/").unwrap(), true), Ok(()));
        assert_eq!(check(&Url::parse("file:///etc/passwd").unwrap(), true), Err(Failure::Url));
    }

    #[tokio::test]
    async fn a_name_for_a_private_address_resolves_to_nothing() {
        let found = PublicOnly.resolve("localhost".parse().unwrap()).await;
        assert!(found.err().is_some_and(|error| error.is::<NotPublic>()));
    }
}
