#include "ps/net/certificate.h"

#include <gtest/gtest.h>
#include <openssl/pem.h>

#include "ps/net/openssl_objects.h"

namespace ps::net {
namespace {

// A certificate like that of MakeCredentials, valid from and until so many days from today.
TlsCredentials Dated(long from_days, long until_days) {
  TlsCredentials made = *MakeCredentials();
  BioPtr key_in(BIO_new_mem_buf(made.key.data(), -1));
  KeyPtr key(PEM_read_bio_PrivateKey(key_in.get(), nullptr, nullptr, nullptr));
  BioPtr in(BIO_new_mem_buf(made.certificate.data(), -1));
  CertificatePtr certificate(PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr));
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), from_days * 86'400);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), until_days * 86'400);
  X509_sign(certificate.get(), key.get(), EVP_sha256());
  BioPtr out(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(out.get(), certificate.get());
  char* text = nullptr;
  long bytes = BIO_get_mem_data(out.get(), &text);
  return {std::string(text, static_cast<std::size_t>(bytes)), made.key};
}

void ExpectWrong(const TlsCredentials& credentials, const std::string& words) {
  auto made = TlsIdentity::Make(credentials);
  ASSERT_FALSE(made.ok()) << words;
  EXPECT_EQ(made.status().code(), StatusCode::kConfiguration);
  EXPECT_NE(made.status().message().find(words), std::string::npos) << made.status().message();
}

TEST(Certificates, EachJobHasItsOwnAndItsFingerprintIsThatOfItsDerForm) {
  TlsCredentials one = *MakeCredentials();
  TlsCredentials other = *MakeCredentials();
  EXPECT_EQ(one.certificate.find("PRIVATE"), std::string::npos);
  std::string fingerprint = *CertificateFingerprint(one.certificate);
  EXPECT_EQ(fingerprint.size(), 64u);
  EXPECT_EQ(fingerprint.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_NE(fingerprint, *CertificateFingerprint(other.certificate));
  auto identity = TlsIdentity::Make(one);
  ASSERT_TRUE(identity.ok()) << identity.status().ToString();
  EXPECT_EQ((*identity)->fingerprint(), fingerprint);
  EXPECT_EQ(FingerprintOf(*identity), fingerprint);
  EXPECT_EQ(FingerprintOf(std::shared_ptr<const TlsIdentity>()), "");
  // What leads to its issuer may follow it; the first one counts.
  one.certificate += other.certificate;
  EXPECT_EQ((*TlsIdentity::Make(one))->fingerprint(), fingerprint);
}

TEST(Certificates, WhatCannotServeIsRefusedSayingWhy) {
  TlsCredentials good = *MakeCredentials();
  ExpectWrong({"", good.key}, "holds no certificate");
  ExpectWrong({"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", good.key},
              "holds no certificate");
  ExpectWrong({good.certificate, ""}, "holds no private key");
  ExpectWrong({good.certificate, good.certificate}, "holds no private key");
  ExpectWrong({good.certificate, MakeCredentials()->key}, "is not the certificate's");
  ExpectWrong(Dated(-10, -1), "has expired, on ");
  ExpectWrong(Dated(1, 10), "is not valid before ");
  EXPECT_EQ(CertificateFingerprint(Dated(-10, -1).certificate).status().code(),
            StatusCode::kConfiguration);
}

}  // namespace
}  // namespace ps::net
