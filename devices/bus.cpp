#include "devices/bus.h"

#include <algorithm>
#include <utility>

namespace vmmd::devices {

struct Bus::Table {
  std::vector<BusRegion> regions;  // ascending by base
};

Bus::Bus(std::string name, std::uint64_t limit)
    : name_(std::move(name)), limit_(limit), table_(std::make_shared<const Table>()) {}

Bus::~Bus() = default;

const BusRegion* Bus::find(const Table& table, std::uint64_t address, unsigned width) {
  auto after = std::upper_bound(table.regions.begin(), table.regions.end(), address,
                                [](std::uint64_t a, const BusRegion& r) { return a < r.base; });
  if (after == table.regions.begin()) return nullptr;
  const BusRegion& region = *std::prev(after);
  const std::uint64_t offset = address - region.base;
  if (offset >= region.length || width > region.length - offset) return nullptr;
  return (region.widths & width) != 0 ? &region : nullptr;
}

Status Bus::map(BusRegion region) {
  if (region.length == 0 || region.base >= limit_ || region.length > limit_ - region.base) {
    return fail(ErrorCode::BadRequest, "{} region {} [{:#x}, +{:#x}) is empty or beyond the bus", name_,
                region.name, region.base, region.length);
  }
  const std::lock_guard lock(changing_);
  const std::shared_ptr<const Table> old = table_.load();
  for (const BusRegion& other : old->regions) {
    if (region.base < other.base + other.length && other.base < region.base + region.length) {
      return fail(ErrorCode::Conflict, "{} region {} [{:#x}, +{:#x}) overlaps {} [{:#x}, +{:#x})", name_,
                  region.name, region.base, region.length, other.name, other.base, other.length);
    }
  }
  auto next = std::make_shared<Table>(*old);
  auto at = std::upper_bound(next->regions.begin(), next->regions.end(), region.base,
                             [](std::uint64_t a, const BusRegion& r) { return a < r.base; });
  next->regions.insert(at, std::move(region));
  table_.store(std::move(next));
  return {};
}

Status Bus::unmap(std::uint64_t base) {
  const std::lock_guard lock(changing_);
  auto next = std::make_shared<Table>(*table_.load());
  if (std::erase_if(next->regions, [base](const BusRegion& r) { return r.base == base; }) == 0) {
    return fail(ErrorCode::NotFound, "{} has no region at {:#x}", name_, base);
  }
  table_.store(std::move(next));
  return {};
}

std::uint64_t Bus::read(std::uint64_t address, unsigned width) const {
  const std::shared_ptr<const Table> table = table_.load();
  const BusRegion* region = find(*table, address, width);
  if (region == nullptr) return all_ones(width);
  return region->device->read(address - region->base, width) & all_ones(width);
}

void Bus::write(std::uint64_t address, unsigned width, std::uint64_t value) const {
  const std::shared_ptr<const Table> table = table_.load();
  const BusRegion* region = find(*table, address, width);
  if (region != nullptr) region->device->write(address - region->base, width, value & all_ones(width));
}

std::vector<BusRegion> Bus::regions() const {
  return table_.load()->regions;
}

}  // namespace vmmd::devices
