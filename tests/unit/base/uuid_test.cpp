#include "base/uuid.h"

#include <doctest/doctest.h>

using vmmd::Uuid;

TEST_CASE("a random UUID has version 4 and the RFC's variant") {
  const auto uuid = Uuid::random();
  REQUIRE(uuid);
  CHECK((uuid->bytes[6] >> 4) == 4);
  CHECK((uuid->bytes[8] >> 6) == 2);
}

TEST_CASE("two random UUIDs differ") {
  const auto first = Uuid::random();
  const auto second = Uuid::random();
  REQUIRE(first);
  REQUIRE(second);
  CHECK(*first != *second);
}

TEST_CASE("a UUID is printed in the order of its bytes") {
  const Uuid uuid{
      {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10}};
  CHECK(uuid.to_string() == "01234567-89ab-cdef-fedc-ba9876543210");
}

TEST_CASE("what is printed is parsed, in either case") {
  const auto lower = Uuid::parse("01234567-89ab-cdef-fedc-ba9876543210");
  const auto upper = Uuid::parse("01234567-89AB-CDEF-FEDC-BA9876543210");
  REQUIRE(lower);
  REQUIRE(upper);
  CHECK(*lower == *upper);
  CHECK(lower->bytes[15] == 0x10);
}

TEST_CASE("anything else is no UUID") {
  CHECK_FALSE(Uuid::parse(""));
  CHECK_FALSE(Uuid::parse("01234567-89ab-cdef-fedc-ba987654321"));
  CHECK_FALSE(Uuid::parse("01234567-89ab-cdef-fedc-ba98765432100"));
  CHECK_FALSE(Uuid::parse("01234567-89ab-cdef-fedc-ba987654321g"));
  CHECK_FALSE(Uuid::parse("0123456789abcdeffedcba987654321000000000"));
  CHECK_FALSE(Uuid::parse("01234567089ab-cdef-fedc-ba9876543210"));
}
