#pragma once

// OpenSSL's objects with their ends, and its errors; for the .cc files of this folder that use it.
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

namespace ps::net {

template <auto Free>
struct FreeBy {
  template <typename Object>
  void operator()(Object* object) const {
    Free(object);
  }
};
using BioPtr = std::unique_ptr<BIO, FreeBy<&BIO_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, FreeBy<&EVP_PKEY_free>>;
using CertificatePtr = std::unique_ptr<X509, FreeBy<&X509_free>>;
using SslPtr = std::unique_ptr<SSL, FreeBy<&SSL_free>>;
using SslContextPtr = std::unique_ptr<SSL_CTX, FreeBy<&SSL_CTX_free>>;

// Why the last call on this thread failed, in OpenSSL's words; clears them.
std::string OpenSslError();

// TLS 1.3 with AES-GCM first, no resumption, no renegotiation; null when there is no memory.
SslContextPtr MakeSslContext(const SSL_METHOD* method);

// CertificateFingerprint of a parsed certificate; "" when it has none.
std::string FingerprintOf(const X509* certificate);

}  // namespace ps::net
