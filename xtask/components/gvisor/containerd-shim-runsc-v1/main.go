// Command containerd-shim-runsc-v1 is gVisor's containerd shim with one call of its own: how the shim's process is
// started. gVisor's insists on lowering the shim's oom score, which a container without CAP_SYS_RESOURCE cannot, and
// puts the shim's socket into a directory that all containerds of a machine share.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/sys"
	"google.golang.org/protobuf/encoding/protowire"
	v1 "gvisor.dev/gvisor/pkg/shim/v1"

	// Registers gVisor's task service, which shim.Run serves.
	_ "gvisor.dev/gvisor/pkg/shim/v1/plugin"
)

const (
	// name is the runtime_type of containerd's configuration.
	name = "io.containerd.runsc.v1"
	// addressFile is where the shim looks for the address of its socket, to remove it when it ends.
	addressFile = "address"
	// oomScore keeps the shim alive for as long as anything else can be killed.
	oomScore = -999
	// socketDirField is the number of containerd.runtime.bootstrap.v1.BootstrapParams.socket_dir.
	socketDirField = 9
	// bootstrapLimit is more than containerd ever sends, in bytes.
	bootstrapLimit = 1 << 20
	// protocolVersion is that of the task service that gVisor registers. At 3 containerd would expect one shim for all
	// containers of a pod.
	protocolVersion = 2
)

func main() {
	shim.Run(context.Background(), manager{v1.NewShimManager(name)})
}

// manager is gVisor's but for Start.
type manager struct {
	shim.Manager
}

// Start starts the process that serves the task of a container and says where it is found. It runs in the bundle's
// directory.
func (manager) Start(ctx context.Context, id string, opts shim.StartOpts) (shim.BootstrapParams, error) {
	address, err := start(ctx, id, opts)
	if err != nil {
		return shim.BootstrapParams{}, err
	}
	return shim.BootstrapParams{Version: protocolVersion, Address: address, Protocol: "ttrpc"}, nil
}

// start returns the address of the shim's socket.
func start(ctx context.Context, id string, opts shim.StartOpts) (string, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return "", err
	}
	address, err := socketAddress(ctx, namespace, id, opts)
	if err != nil {
		return "", err
	}
	// The shim's process reads it when it starts.
	if err := os.WriteFile(addressFile, []byte(address), 0o600); err != nil {
		return "", err
	}
	listener, err := listen(address)
	if err != nil || listener == nil {
		return address, err
	}
	defer listener.Close()
	if err := serve(listener, namespace, id, opts); err != nil {
		return "", errors.Join(err, shim.RemoveSocket(address))
	}
	return address, nil
}

// socketAddress is in the directory that containerd names, and in the shared one where it names none.
func socketAddress(ctx context.Context, namespace, id string, opts shim.StartOpts) (string, error) {
	params, err := io.ReadAll(io.LimitReader(os.Stdin, bootstrapLimit))
	if err != nil {
		return "", fmt.Errorf("read the bootstrap parameters: %w", err)
	}
	directory := socketDir(params)
	if directory == "" {
		return shim.SocketAddress(ctx, opts.Address, id, false)
	}
	digest := sha256.Sum256([]byte(filepath.Join(opts.Address, namespace, id)))
	return fmt.Sprintf("unix://%s/%x", directory, digest), nil
}

// socketDir finds the directory in encoded bootstrap parameters; empty when they name none.
func socketDir(params []byte) string {
	directory := ""
	for len(params) > 0 {
		number, kind, n := protowire.ConsumeTag(params)
		if n < 0 {
			return ""
		}
		params = params[n:]
		if number == socketDirField && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(params)
			directory = string(value)
		}
		n = protowire.ConsumeFieldValue(number, kind, params)
		if n < 0 {
			return ""
		}
		params = params[n:]
	}
	return directory
}

// listen returns nothing, and no error, when a shim answers at the address already.
func listen(address string) (*os.File, error) {
	socket, err := shim.NewSocket(address)
	if err != nil && shim.SocketEaddrinuse(err) {
		if shim.CanConnect(address) {
			return nil, nil
		}
		// Of a shim that has ended.
		if err := shim.RemoveSocket(address); err != nil {
			return nil, fmt.Errorf("remove the socket of before: %w", err)
		}
		socket, err = shim.NewSocket(address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for containerd: %w", err)
	}
	// The file is a copy; the socket's place must outlive this process.
	socket.SetUnlinkOnClose(false)
	defer socket.Close()
	return socket.File()
}

// serve starts this program as the shim's process, which finds its socket as the first file after the standard ones.
func serve(listener *os.File, namespace, id string, opts shim.StartOpts) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"-namespace", namespace, "-address", opts.Address, "-id", id}
	if opts.Debug {
		args = append(args, "-debug")
	}
	command := exec.Command(self, args...)
	command.Env = append(os.Environ(), "GOMAXPROCS=2")
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.ExtraFiles = []*os.File{listener}
	if err := command.Start(); err != nil {
		return fmt.Errorf("start the shim: %w", err)
	}
	pid := command.Process.Pid
	err = shim.WritePidFile("shim.pid", pid)
	if err == nil {
		err = sys.SetOOMScore(pid, oomScore)
	}
	if errors.Is(err, os.ErrPermission) {
		// Without CAP_SYS_RESOURCE it stays what it was.
		err = nil
	}
	if err != nil {
		return errors.Join(err, command.Process.Kill())
	}
	return command.Process.Release()
}
