//! Verifiers of server certificates for the modes that do not check the host.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved, RootCertStore,
    SignatureScheme,
};
use webpki::Error::{
    InvalidSignatureForPublicKey, UnsupportedSignatureAlgorithmForPublicKeyContext,
};
use webpki::RawPublicKeyEntity;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

/// Checks the certificate's signature chain, but not its host.
#[derive(Debug)]
pub(super) struct AnyHost {
    pub(super) roots: RootCertStore,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Accepts any certificate, even one that could not be verified, but only if the peer proves
/// that it has its key. Channel binding binds a login to the certificate: without that proof a
/// man in the middle could present the server's own certificate and relay the login.
#[derive(Debug)]
pub(super) struct Anybody {
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    /// As rustls does for the certificates that it parses.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = public_key(certificate)?;
        let key = RawPublicKeyEntity::try_from(&key).map_err(refused)?;
        let mut outcome = Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        // In TLS 1.2 a scheme does not say which curve the key is on.
        let mapping = self.algorithms.mapping.iter();
        let of_scheme = mapping.filter(|(scheme, _)| *scheme == signed.scheme);
        for algorithm in of_scheme.flat_map(|(_, algorithms)| *algorithms) {
            match key.verify_signature(*algorithm, message, signed.signature()) {
                Ok(()) => return Ok(HandshakeSignatureValid::assertion()),
                Err(error @ UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {
                    outcome = Err(refused(error));
                }
                Err(error) => return Err(refused(error)),
            }
        }
        outcome
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = public_key(certificate)?;
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The key of any certificate: webpki parses only those of version 3 without unknown critical
/// extensions.
fn public_key(certificate: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    if let Ok(parsed) = ParsedCertificate::try_from(certificate) {
        return Ok(parsed.subject_public_key_info());
    }
    Certificate::from_der(certificate)
        .and_then(|parsed| parsed.tbs_certificate.subject_public_key_info.to_der())
        .map(SubjectPublicKeyInfoDer::from)
        .map_err(|_| CertificateError::BadEncoding.into())
}

/// Translates webpki's error into rustls's.
fn refused(error: webpki::Error) -> Error {
    let error = match error {
        InvalidSignatureForPublicKey => CertificateError::BadSignature,
        UnsupportedSignatureAlgorithmForPublicKeyContext(context) => {
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: context.signature_algorithm_id,
                public_key_algorithm_id: context.public_key_algorithm_id,
            }
        }
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    error.into()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion};

    use super::*;
    use crate::connect::tls::Trust;
    use crate::connect::tls::rustls::{client_config, ring};

    /// What `openssl x509 -req` makes, of a P-256 key that was not kept.
    const VERSION_1: &[u8] = b"-----BEGIN CERTIFICATE-----
MIIBLTCB0wIUKO8LM67hwe8OdqNrN1+stvCSUuUwCgYIKoZIzj0EAwIwGTEXMBUG
A1UEAwwOZGIuZXhhbXBsZS5jb20wHhcNMjYxMTI1MDQ0MjQ2WhcNMzYxMTIyMDQ0
MjQ2WjAZMRcwFQYDVQQDDA5kYi5leGFtcGxlLmNvbTBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABGrBvgv08kfF5PXUTmcqD83bAprmau5TUfd6vsNS4Og5UVMmnqLX
PDp9y4XKUe0LtNN9ZwsmUtcv3L1zLlKBUgUwCgYIKoZIzj0EAwIDSQAwRgIhAJtx
g1k61TNfv+4WsMWmOoEYEz6JjCfxQzHe0DVYvbbCAiEAtT+xC9/HSASngNwvES6n
ECPO8AIhgvK39oNNjLTbZDU=
-----END CERTIFICATE-----";

    /// With a server that presents `certificate` and has `key`.
    fn handshake(
        version: &'static SupportedProtocolVersion,
        certificate: &CertificateDer<'static>,
        key: &KeyPair,
    ) -> Result<(), Error> {
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = ring::sign::any_supported_type(&key)?;
        let shown = CertifiedKey::new(vec![certificate.clone()], key);
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        let mut server = ServerConnection::new(Arc::new(config))?;
        let config = client_config(&Trust::Anybody).unwrap();
        let name = ServerName::try_from("db.example.com").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name)?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn whoever_shows_a_certificate_has_its_key() {
        let old = CertificateDer::from_pem_slice(VERSION_1).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        let plain = params.self_signed(&key).unwrap();
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
        let surprising = params.self_signed(&key).unwrap();
        let other = KeyPair::generate().unwrap();
        let of_other_kind = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        for version in [&TLS12, &TLS13] {
            for certificate in [plain.der(), surprising.der()] {
                handshake(version, certificate, &key).unwrap();
            }
            for certificate in [plain.der(), surprising.der(), &old] {
                let error = handshake(version, certificate, &other).unwrap_err();
                assert_eq!(error, CertificateError::BadSignature.into());
                handshake(version, certificate, &of_other_kind).unwrap_err();
            }
        }
    }
}
