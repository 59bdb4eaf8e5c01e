#pragma once

#include <linux/kvm.h>

#include <vector>

namespace vmmd::snapshot {

// A CPUID leaf as a message and back. state.proto and snapshot.proto each have a message of the same fields,
// because the format library knows no units.

template <class Leaf>
void to_message(const kvm_cpuid_entry2& entry, Leaf& leaf) {
  leaf.set_function(entry.function);
  leaf.set_index(entry.index);
  leaf.set_flags(entry.flags);
  leaf.set_eax(entry.eax);
  leaf.set_ebx(entry.ebx);
  leaf.set_ecx(entry.ecx);
  leaf.set_edx(entry.edx);
}

template <class Leaves>
[[nodiscard]] std::vector<kvm_cpuid_entry2> from_messages(const Leaves& leaves) {
  std::vector<kvm_cpuid_entry2> entries;
  entries.reserve(static_cast<std::size_t>(leaves.size()));
  for (const auto& leaf : leaves) {
    kvm_cpuid_entry2 entry = {};
    entry.function = leaf.function();
    entry.index = leaf.index();
    entry.flags = leaf.flags();
    entry.eax = leaf.eax();
    entry.ebx = leaf.ebx();
    entry.ecx = leaf.ecx();
    entry.edx = leaf.edx();
    entries.push_back(entry);
  }
  return entries;
}

}  // namespace vmmd::snapshot
