#include "daemon/snapshot/units.h"

#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

using namespace vmmd;
using namespace vmmd::snapshot;

namespace {

class FakeUnit final : public devices::StateUnit {
 public:
  explicit FakeUnit(std::string name) : name_(std::move(name)) {}
  [[nodiscard]] std::string_view unit_name() const override { return name_; }
  [[nodiscard]] Result<devices::UnitState> save() const override {
    if (refusal) return tl::make_unexpected(*refusal);
    return devices::UnitState{"type.googleapis.com/test." + name_, "state of " + name_, 7};
  }
  Status restore(const devices::UnitState& state) override {
    if (refusal) return tl::make_unexpected(*refusal);
    restored = state;
    if (order != nullptr) order->push_back(name_);
    return {};
  }
  void reset() override {}

  std::optional<Error> refusal;
  std::optional<devices::UnitState> restored;
  std::vector<std::string>* order = nullptr;

 private:
  std::string name_;
};

using Units = std::vector<devices::StateUnit*>;
using Names = std::vector<std::string>;

void add(state::SavedState& saved, const std::string& name) {
  saved.add_units()->set_name(name);
}

std::string text(const Status& status) {
  return status ? "" : status.error().to_string();
}

}  // namespace

TEST_CASE("units are saved in order, each with name, version, type and bytes") {
  FakeUnit a("a");
  FakeUnit b("b");
  const auto saved = save_units(Units{&b, &a});
  REQUIRE(saved);
  REQUIRE(saved->units_size() == 2);
  CHECK(saved->units(0).name() == "b");
  CHECK(saved->units(1).name() == "a");
  CHECK(saved->units(1).version() == 7);
  CHECK(saved->units(1).state().type_url() == "type.googleapis.com/test.a");
  CHECK(saved->units(1).state().value() == "state of a");
}

TEST_CASE("every unit that cannot be saved is named with its reason, in one error") {
  FakeUnit a("net0");
  FakeUnit b("fine");
  FakeUnit c("disk:root");
  a.refusal = Error{ErrorCode::NotSupported, {"vhost-user cannot be saved"}};
  c.refusal = Error{ErrorCode::NotSupported, {"passed through"}};
  const auto saved = save_units(Units{&a, &b, &c});
  REQUIRE_FALSE(saved);
  CHECK(saved.error().code == ErrorCode::NotSupported);
  CHECK(saved.error().messages ==
        Names{"some units cannot be saved", "net0: vhost-user cannot be saved", "disk:root: passed through"});
}

TEST_CASE("a failure of the host among refusals gives the error its code") {
  FakeUnit a("vcpu0");
  FakeUnit b("net0");
  a.refusal = Error{ErrorCode::Internal, {"KVM_GET_REGS failed"}};
  b.refusal = Error{ErrorCode::NotSupported, {"no"}};
  CHECK(save_units(Units{&a, &b}).error().code == ErrorCode::Internal);
  CHECK(save_units(Units{&b, &a}).error().code == ErrorCode::Internal);
}

TEST_CASE("the same units on both sides fit") {
  FakeUnit a("a");
  FakeUnit b("b");
  state::SavedState saved;
  add(saved, "b");
  add(saved, "a");
  Names fresh;
  CHECK(compare_units(saved, Units{&a, &b}, fresh));
  CHECK(fresh.empty());
}

TEST_CASE("unknown and duplicate units are refused together, each by name") {
  FakeUnit a("a");
  state::SavedState saved;
  for (const char* name : {"a", "a", "tpm", "net9"}) add(saved, name);
  Names fresh;
  const Status status = compare_units(saved, Units{&a}, fresh);
  REQUIRE_FALSE(status);
  CHECK(status.error().code == ErrorCode::BadRequest);
  CHECK(status.error().messages == Names{"the snapshot's units do not fit this machine",
                                         "unit a is there twice",
                                         "unit net9 is in the snapshot, but the machine has no such unit",
                                         "unit tpm is in the snapshot, but the machine has no such unit"});
}

TEST_CASE("units that the snapshot lacks are fresh, and no error") {
  FakeUnit a("a");
  FakeUnit b("b");
  FakeUnit c("c");
  state::SavedState saved;
  add(saved, "b");
  Names fresh{"before"};
  CHECK(compare_units(saved, Units{&a, &b, &c}, fresh));
  CHECK(fresh == Names{"before", "a", "c"});
}

TEST_CASE("units are restored in the machine's order, from what was saved") {
  FakeUnit a("a");
  FakeUnit b("b");
  const auto saved = save_units(Units{&a, &b});
  REQUIRE(saved);
  FakeUnit to_a("a");
  FakeUnit to_b("b");
  Names order;
  to_a.order = to_b.order = &order;
  REQUIRE(restore_units(*saved, Units{&to_b, &to_a}));
  CHECK(order == Names{"b", "a"});
  REQUIRE(to_a.restored);
  CHECK(to_a.restored->type_url == "type.googleapis.com/test.a");
  CHECK(to_a.restored->value == "state of a");
  CHECK(to_a.restored->version == 7);
}

TEST_CASE("a fresh unit is left alone by restore") {
  FakeUnit a("a");
  CHECK(restore_units(state::SavedState(), Units{&a}));
  CHECK_FALSE(a.restored);
}

TEST_CASE("a unit's refusal names the unit, and the units behind it are not touched") {
  FakeUnit a("serial0");
  FakeUnit b("ioapic");
  const auto saved = save_units(Units{&a, &b});
  REQUIRE(saved);
  a.refusal = Error{ErrorCode::BadRequest, {"17 bytes in the FIFO"}};
  const Status status = restore_units(*saved, Units{&a, &b});
  CHECK(text(status) == "cannot restore unit serial0: 17 bytes in the FIFO");
  CHECK_FALSE(b.restored);
}
