#include "ps/net/certificate.h"

#include <openssl/ec.h>
#include <openssl/pem.h>

#include <array>
#include <utility>
#include <vector>

#include "ps/net/openssl_objects.h"
#include "ps/wire/openssl.h"

namespace ps::net {
namespace {

constexpr const char* kCipherSuites =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
// Clients compare the fingerprint and look at no date; clocks of hosts may differ.
constexpr long kValidBeforeSeconds = -86'400;
constexpr long kValidForDays = 36'500;

Status Wrong(const std::string& what) { return Status(StatusCode::kConfiguration, what); }

BioPtr Reading(const std::string& text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

std::string TextOf(BIO* bio) {
  char* data = nullptr;
  long bytes = BIO_get_mem_data(bio, &data);
  return bytes > 0 ? std::string(data, static_cast<std::size_t>(bytes)) : std::string();
}

std::string DateOf(const ASN1_TIME* time) {
  BioPtr out(BIO_new(BIO_s_mem()));
  return ASN1_TIME_print(out.get(), time) == 1 ? TextOf(out.get()) : "an unknown date";
}

Status CheckDates(const X509* certificate) {
  const ASN1_TIME* from = X509_get0_notBefore(certificate);
  const ASN1_TIME* until = X509_get0_notAfter(certificate);
  if (X509_cmp_current_time(from) > 0) {
    return Wrong("the certificate is not valid before " + DateOf(from));
  }
  if (X509_cmp_current_time(until) < 0) {
    return Wrong("the certificate has expired, on " + DateOf(until));
  }
  return Status::Ok();
}

// The certificates of a PEM text; at least one, the first one valid today.
Result<std::vector<CertificatePtr>> ReadCertificates(const std::string& text) {
  wire::StartOpenSsl();
  BioPtr bio = Reading(text);
  std::vector<CertificatePtr> all;
  while (X509* next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    all.emplace_back(next);
  }
  std::string why = OpenSslError();  // also at the end of the text
  if (all.empty()) return Wrong("it holds no certificate in PEM form (" + why + ")");
  PS_RETURN_IF_ERROR(CheckDates(all.front().get()));
  return all;
}

// Instead of asking for one on the terminal.
int NoPassword(char*, int, int, void*) { return -1; }

Result<KeyPtr> ReadKey(const std::string& text) {
  BioPtr bio = Reading(text);
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, &NoPassword, nullptr));
  std::string why = OpenSslError();
  if (key == nullptr) {
    return Wrong("it holds no private key in PEM form without a password (" + why + ")");
  }
  return key;
}

Status Use(SSL_CTX* context, const std::vector<CertificatePtr>& chain, EVP_PKEY* key) {
  if (X509_check_private_key(chain.front().get(), key) != 1) {
    OpenSslError();
    return Wrong("the private key is not the certificate's");
  }
  bool used = SSL_CTX_use_certificate(context, chain.front().get()) == 1 &&
              SSL_CTX_use_PrivateKey(context, key) == 1;
  for (std::size_t i = 1; used && i < chain.size(); ++i) {
    used = SSL_CTX_add1_chain_cert(context, chain[i].get()) == 1;
  }
  return used ? Status::Ok() : Wrong("OpenSSL refuses the certificate: " + OpenSslError());
}

CertificatePtr SelfSigned(EVP_PKEY* key) {
  CertificatePtr certificate(X509_new());
  X509* raw = certificate.get();
  X509_NAME* name = X509_get_subject_name(raw);
  const auto* words = reinterpret_cast<const unsigned char*>("pyspark-ps");
  bool made = X509_set_version(raw, X509_VERSION_3) == 1 &&
              ASN1_INTEGER_set(X509_get_serialNumber(raw), 1) == 1 &&
              X509_gmtime_adj(X509_getm_notBefore(raw), kValidBeforeSeconds) != nullptr &&
              X509_time_adj_ex(X509_getm_notAfter(raw), kValidForDays, 0, nullptr) != nullptr &&
              X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, words, -1, -1, 0) == 1 &&
              X509_set_issuer_name(raw, name) == 1 && X509_set_pubkey(raw, key) == 1 &&
              X509_sign(raw, key, EVP_sha256()) > 0;
  return made ? std::move(certificate) : nullptr;
}

}  // namespace

std::string OpenSslError() {
  unsigned long error = ERR_peek_error();
  ERR_clear_error();
  const char* words = ERR_reason_error_string(error);
  return words != nullptr ? words : "no reason given";
}

SslContextPtr MakeSslContext(const SSL_METHOD* method) {
  wire::StartOpenSsl();
  SslContextPtr context(SSL_CTX_new(method));
  bool made = context != nullptr &&
              SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION) == 1 &&
              SSL_CTX_set_ciphersuites(context.get(), kCipherSuites) == 1 &&
              SSL_CTX_set_num_tickets(context.get(), 0) == 1;
  if (!made) return nullptr;
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_quiet_shutdown(context.get(), 1);
  // Idle connections hold no record's memory.
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS);
  return context;
}

std::string FingerprintOf(const X509* certificate) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int bytes = 0;
  if (certificate == nullptr ||
      X509_digest(certificate, EVP_sha256(), digest.data(), &bytes) != 1) {
    return "";
  }
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < bytes; ++i) {
    text += kDigits[digest[i] >> 4];
    text += kDigits[digest[i] & 15];
  }
  return text;
}

std::string FingerprintOf(const std::shared_ptr<const TlsIdentity>& identity) {
  return identity == nullptr ? "" : identity->fingerprint();
}

Result<TlsCredentials> MakeCredentials() {
  wire::StartOpenSsl();
  KeyPtr key(EVP_EC_gen("P-256"));
  CertificatePtr certificate = key == nullptr ? nullptr : SelfSigned(key.get());
  BioPtr certificate_text(BIO_new(BIO_s_mem()));
  BioPtr key_text(BIO_new(BIO_s_secmem()));
  bool made = certificate != nullptr &&
              PEM_write_bio_X509(certificate_text.get(), certificate.get()) == 1 &&
              PEM_write_bio_PrivateKey(key_text.get(), key.get(), nullptr, nullptr, 0, nullptr,
                                       nullptr) == 1;
  if (!made) return Internal("cannot make a certificate: " + OpenSslError());
  return TlsCredentials{TextOf(certificate_text.get()), TextOf(key_text.get())};
}

Result<std::string> CertificateFingerprint(const std::string& certificate) {
  PS_ASSIGN_OR_RETURN(auto chain, ReadCertificates(certificate));
  return FingerprintOf(chain.front().get());
}

Result<std::shared_ptr<const TlsIdentity>> TlsIdentity::Make(const TlsCredentials& credentials) {
  PS_ASSIGN_OR_RETURN(auto chain, ReadCertificates(credentials.certificate));
  PS_ASSIGN_OR_RETURN(KeyPtr key, ReadKey(credentials.key));
  SslContextPtr context = MakeSslContext(TLS_server_method());
  if (context == nullptr) return Internal("cannot set up TLS: " + OpenSslError());
  PS_RETURN_IF_ERROR(Use(context.get(), chain, key.get()));
  std::shared_ptr<TlsIdentity> identity(new TlsIdentity(FingerprintOf(chain.front().get())));
  identity->context_ = context.release();
  return std::shared_ptr<const TlsIdentity>(std::move(identity));
}

TlsIdentity::~TlsIdentity() { SSL_CTX_free(context_); }

}  // namespace ps::net
