//! A certificate authority made at start, and what a server needs to be trusted by whoever trusts it.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::StandInError;

/// Names and addresses the certificate is good for, beside the one bound.
const LOCAL_NAMES: &[&str] = &["localhost", "127.0.0.1", "::1"];

/// Encryption for one stand-in.
pub(crate) struct Tls {
    /// The authority's certificate; its key is gone once the server's is signed.
    pub(crate) ca_pem: String,
    pub(crate) acceptor: TlsAcceptor,
}

impl Tls {
    /// A new authority, and a server certificate for this machine's loopback names and `bound`.
    pub(crate) fn new(bound: IpAddr) -> Result<Self, StandInError> {
        let (ca_pem, config) = made(bound).map_err(|error| StandInError::Tls(error.to_string()))?;
        Ok(Self { ca_pem, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

fn made(bound: IpAddr) -> Result<(String, ServerConfig), Box<dyn std::error::Error>> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "codex-bridge stand-in");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let mut names: Vec<String> = LOCAL_NAMES.iter().map(|name| (*name).to_owned()).collect();
    names.push(bound.to_string());
    names.dedup();
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.use_authority_key_identifier_extension = true;
    let server_key = KeyPair::generate()?;
    let certificate = server.signed_by(&server_key, &issuer)?;

    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((ca_pem, config))
}
