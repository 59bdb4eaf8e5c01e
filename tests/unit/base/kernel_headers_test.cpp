#include <linux/kvm.h>

#include <doctest/doctest.h>

// The kernel's own figures, as a C program gets them (see base/compat/linux/stddef.h).
TEST_CASE("KVM's structures with flexible arrays have their C sizes") {
  CHECK(sizeof(kvm_cpuid2) == 8);
  CHECK(sizeof(kvm_msrs) == 8);
  CHECK(sizeof(kvm_msr_list) == 4);
  CHECK(sizeof(kvm_irq_routing) == 8);
  CHECK(sizeof(kvm_signal_mask) == 4);
  CHECK(KVM_GET_SUPPORTED_CPUID == 0xC008'AE05);
  CHECK(KVM_SET_MSRS == 0x4008'AE89);
}
