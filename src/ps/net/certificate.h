#pragma once

#include <memory>
#include <string>

#include "ps/base/status.h"

struct ssl_ctx_st;

namespace ps::net {

// A certificate with the certificates that lead to its issuer, its own first, and its private key;
// both PEM.
struct TlsCredentials {
  std::string certificate;
  std::string key;
};

// A fresh key (ECDSA, P-256) and a certificate for it that it signed itself.
Result<TlsCredentials> MakeCredentials();

// SHA-256 of the (first) certificate's DER form, 64 lower-case hexadecimal digits: what clients
// pin. kConfiguration: no certificate, or one that has expired or is not valid yet.
Result<std::string> CertificateFingerprint(const std::string& certificate);

// What a listener shows to its peers. Immutable, thread-safe.
class TlsIdentity {
 public:
  // kConfiguration as above; or the key cannot be read, has a password or is another one's. No
  // message holds anything of the key.
  static Result<std::shared_ptr<const TlsIdentity>> Make(const TlsCredentials& credentials);
  ~TlsIdentity();
  TlsIdentity(const TlsIdentity&) = delete;

  const std::string& fingerprint() const { return fingerprint_; }
  ssl_ctx_st* context() const { return context_; }  // OpenSSL's, for tls_stream.cc

 private:
  explicit TlsIdentity(std::string fingerprint) : fingerprint_(std::move(fingerprint)) {}

  const std::string fingerprint_;
  ssl_ctx_st* context_ = nullptr;
};

// The fingerprint that peers of a holder of `identity` pin; "" without one: no TLS.
std::string FingerprintOf(const std::shared_ptr<const TlsIdentity>& identity);

}  // namespace ps::net
