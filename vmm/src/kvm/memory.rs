//! The guest's memory.

use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::AtomicBitmap;

/// Guest memory, mapped. The bitmap, where there is one, marks the pages that devices
/// have written; those that vCPUs write, KVM knows.
pub type Memory = GuestMemoryMmap<Option<AtomicBitmap>>;
