#include "daemon/vm/irq.h"

#include <algorithm>
#include <vector>

namespace vmmd::vm {

void KvmRoutes::set_route(unsigned pin, std::optional<devices::MsiMessage> message) {
  if (pin >= pins_.size() || pins_[pin] == message) return;
  pins_[pin] = message;
  commit();
}

void KvmRoutes::set_routes(std::span<const std::optional<devices::MsiMessage>> messages) {
  const std::size_t count = std::min(messages.size(), pins_.size());
  if (std::equal(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(count), pins_.begin()))
    return;
  std::copy_n(messages.begin(), count, pins_.begin());
  commit();
}

void KvmRoutes::commit() {
  std::vector<kvm_irq_routing_entry> entries;
  for (unsigned pin = 0; pin < pins_.size(); ++pin) {
    if (!pins_[pin]) continue;
    kvm_irq_routing_entry entry = {};
    entry.gsi = pin;
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = static_cast<std::uint32_t>(pins_[pin]->address);
    entry.u.msi.address_hi = static_cast<std::uint32_t>(pins_[pin]->address >> 32);
    entry.u.msi.data = pins_[pin]->data;
    entries.push_back(entry);
  }
  // A guest can program nonsense, which KVM refuses: then that interrupt does not arrive, as on hardware.
  static_cast<void>(vm_.set_routing(entries));
}

}  // namespace vmmd::vm
