package criserver

import (
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/stats"
	"github.com/podwright/podwright/pkg/netutil"
)

// The tables below are read by ListMetricDescriptors and ListPodSandboxMetrics alike, so that no value is sent
// under a name that was not announced. Seconds are whole, because the CRI's values are.
var containerFamilies = []containerFamily{
	{family{"container_cpu_usage_seconds_total", "CPU time used, in seconds", counter, nil}, one(func(r reading) uint64 { return wholeSeconds(r.usage.CPU.Total) })},
	{family{"container_cpu_user_seconds_total", "CPU time used in user mode, in seconds", counter, nil}, one(func(r reading) uint64 { return wholeSeconds(r.details.User) })},
	{family{"container_cpu_system_seconds_total", "CPU time used in kernel mode, in seconds", counter, nil}, one(func(r reading) uint64 { return wholeSeconds(r.details.System) })},
	{family{"container_cpu_cfs_periods_total", "Periods of the CPU quota that have passed", counter, nil}, one(func(r reading) uint64 { return r.details.Periods })},
	{family{"container_cpu_cfs_throttled_periods_total", "Periods in which the CPU quota was used up", counter, nil}, one(func(r reading) uint64 { return r.details.ThrottledPeriods })},
	{family{"container_cpu_cfs_throttled_seconds_total", "Time spent waiting for more CPU quota, in seconds", counter, nil}, one(func(r reading) uint64 { return wholeSeconds(r.details.ThrottledTime) })},
	{family{"container_memory_usage_bytes", "Memory in use, file pages included", gauge, nil}, one(func(r reading) uint64 { return r.usage.Memory.Usage })},
	{family{"container_memory_working_set_bytes", "Memory in use without file pages not used of late", gauge, nil}, one(func(r reading) uint64 { return r.usage.Memory.WorkingSet })},
	{family{"container_memory_max_usage_bytes", "The most memory that was ever in use", gauge, nil}, one(func(r reading) uint64 { return r.details.MaxMemory })},
	{family{"container_memory_rss", "Anonymous memory, in bytes", gauge, nil}, one(func(r reading) uint64 { return r.usage.Memory.RSS })},
	{family{"container_memory_cache", "File pages in memory, in bytes", gauge, nil}, one(func(r reading) uint64 { return r.usage.Memory.Cache })},
	{family{"container_memory_mapped_file", "File pages that are mapped, in bytes", gauge, nil}, one(func(r reading) uint64 { return r.usage.Memory.MappedFile })},
	{family{"container_memory_total_active_file_bytes", "File pages used of late", gauge, nil}, one(func(r reading) uint64 { return r.usage.Memory.ActiveFile })},
	{family{"container_memory_total_inactive_file_bytes", "File pages not used of late", gauge, nil}, one(func(r reading) uint64 { return r.usage.Memory.InactiveFile })},
	{family{"container_memory_kernel_usage", "Memory of the kernel on behalf of the container, in bytes", gauge, nil}, one(func(r reading) uint64 { return r.details.KernelMemory })},
	{family{"container_memory_swap", "Swap in use, in bytes", gauge, nil}, one(func(r reading) uint64 { return r.usage.Swap.Usage })},
	{family{"container_memory_failcnt", "Times the memory limit was hit", counter, nil}, one(func(r reading) uint64 { return r.details.MemoryFailures })},
	{family{"container_memory_failures_total", "Page faults", counter, []string{"failure_type", "scope"}}, pageFaults},
	{family{"container_oom_events_total", "Processes that the kernel has killed for want of memory", counter, nil}, one(func(r reading) uint64 { return r.details.OOMKills })},
	{family{"container_pressure_cpu_waiting_seconds_total", "Time in which some task waited for CPU, in seconds", counter, nil}, stalled(cpuPressure, some)},
	{family{"container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for CPU, in seconds", counter, nil}, stalled(cpuPressure, full)},
	{family{"container_pressure_memory_waiting_seconds_total", "Time in which some task waited for memory, in seconds", counter, nil}, stalled(memoryPressure, some)},
	{family{"container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory, in seconds", counter, nil}, stalled(memoryPressure, full)},
	{family{"container_pressure_io_waiting_seconds_total", "Time in which some task waited for I/O, in seconds", counter, nil}, stalled(ioPressure, some)},
	{family{"container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for I/O, in seconds", counter, nil}, stalled(ioPressure, full)},
	{family{"container_fs_usage_bytes", "Disk space of the writable layer", gauge, []string{"device"}}, layerBytes},
	{family{"container_fs_limit_bytes", "Size of the file system with the writable layer", gauge, []string{"device"}}, onDisk(func(f stats.FileSystem) uint64 { return f.Bytes })},
	{family{"container_fs_inodes_total", "Inodes of the file system with the writable layer", gauge, []string{"device"}}, onDisk(func(f stats.FileSystem) uint64 { return f.Inodes })},
	{family{"container_fs_inodes_free", "Free inodes of the file system with the writable layer", gauge, []string{"device"}}, onDisk(func(f stats.FileSystem) uint64 { return f.FreeInodes })},
	{family{"container_fs_reads_total", "Reads completed, by block device", counter, []string{"device"}}, perDevice(func(d stats.Device) uint64 { return d.ReadCount })},
	{family{"container_fs_reads_bytes_total", "Bytes read, by block device", counter, []string{"device"}}, perDevice(func(d stats.Device) uint64 { return d.ReadBytes })},
	{family{"container_fs_writes_total", "Writes completed, by block device", counter, []string{"device"}}, perDevice(func(d stats.Device) uint64 { return d.WriteCount })},
	{family{"container_fs_writes_bytes_total", "Bytes written, by block device", counter, []string{"device"}}, perDevice(func(d stats.Device) uint64 { return d.WriteBytes })},
	{family{"container_blkio_device_usage_total", "Bytes moved, by block device and direction", counter, []string{"device", "major", "minor", "operation"}}, deviceUsage},
	{family{"container_processes", "Processes", gauge, nil}, one(func(r reading) uint64 { return r.details.Processes })},
	{family{"container_threads", "Processes and their threads", gauge, nil}, one(func(r reading) uint64 { return r.details.Threads })},
	{family{"container_threads_max", "The most threads allowed; 0 is no limit", gauge, nil}, one(func(r reading) uint64 { return limit(r.details.MaxThreads) })},
	{family{"container_file_descriptors", "Open file descriptors of all processes", gauge, nil}, one(func(r reading) uint64 { return r.details.FileDescriptors })},
	{family{"container_sockets", "Open sockets of all processes", gauge, nil}, one(func(r reading) uint64 { return r.details.Sockets })},
	{family{"container_ulimits_soft", "Soft limits of the first process", gauge, []string{"ulimit"}}, openFiles},
	{family{"container_last_seen", "When the container was last measured, in seconds since 1970", gauge, nil}, one(func(r reading) uint64 { return uint64(r.now) })},
	{family{"container_start_time_seconds", "When the container was started, in seconds since 1970", gauge, nil}, one(func(r reading) uint64 { return uint64(max(r.container.StartedAt.Unix(), 0)) })},
	{family{"container_spec_cpu_period", "CPU period, in microseconds", gauge, nil}, one(func(r reading) uint64 { return asked(r.container.Limits().CPUPeriod, 100000) })},
	{family{"container_spec_cpu_quota", "CPU quota per period, in microseconds; 0 is no limit", gauge, nil}, one(func(r reading) uint64 { return asked(r.container.Limits().CPUQuota, 0) })},
	{family{"container_spec_cpu_shares", "CPU shares", gauge, nil}, one(func(r reading) uint64 { return asked(r.container.Limits().CPUShares, 1024) })},
	{family{"container_spec_memory_limit_bytes", "Memory limit; 0 is no limit", gauge, nil}, one(func(r reading) uint64 { return asked(r.container.Limits().MemoryLimit, 0) })},
	{family{"container_spec_memory_reservation_limit_bytes", "Memory reservation; the CRI has none, so it is 0", gauge, nil}, one(func(r reading) uint64 { return 0 })},
	{family{"container_spec_memory_swap_limit_bytes", "Limit of memory and swap together; 0 is no limit", gauge, nil}, one(func(r reading) uint64 {
		return asked(r.container.Limits().MemorySwap, r.container.Limits().MemoryLimit)
	})},
}

var networkFamilies = []podFamily{
	{family{"container_network_receive_bytes_total", "Bytes received", counter, []string{"interface"}}, onInterface(func(c netutil.Counters) uint64 { return c.RxBytes })},
	{family{"container_network_receive_packets_total", "Packets received", counter, []string{"interface"}}, onInterface(func(c netutil.Counters) uint64 { return c.RxPackets })},
	{family{"container_network_receive_errors_total", "Errors while receiving", counter, []string{"interface"}}, onInterface(func(c netutil.Counters) uint64 { return c.RxErrors })},
	{family{"container_network_receive_packets_dropped_total", "Packets dropped while receiving", counter, []string{"interface"}}, onInterface(func(c netutil.Counters) uint64 { return c.RxDropped })},
	{family{"container_network_transmit_bytes_total", "Bytes sent", counter, []string{"interface"}}, onInterface(func(c netutil.Counters) uint64 { return c.TxBytes })},
	{family{"container_network_transmit_packets_total", "Packets sent", counter, []string{"interface"}}, onInterface(func(c netutil.Counters) uint64 { return c.TxPackets })},
	{family{"container_network_transmit_errors_total", "Errors while sending", counter, []string{"interface"}}, onInterface(func(c netutil.Counters) uint64 { return c.TxErrors })},
	{family{"container_network_transmit_packets_dropped_total", "Packets dropped while sending", counter, []string{"interface"}}, onInterface(func(c netutil.Counters) uint64 { return c.TxDropped })},
}

// checkFamilies are no metrics of cAdvisor: no other runtime checks networks, so their names are ours.
var checkFamilies = []checkFamily{
	{family{"cri_shim_network_checks_total", "How often the pod's network was checked (CNI CHECK)", counter, nil}, func(c pod.NetworkCheck) uint64 { return c.Checks }},
	{family{"cri_shim_network_check_failures_total", "How often it was not as it had been made", counter, nil}, func(c pod.NetworkCheck) uint64 { return c.Failures }},
}
