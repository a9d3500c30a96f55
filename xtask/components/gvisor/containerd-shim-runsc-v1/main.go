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

	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/runtime/v2/shim"
	"github.com/containerd/containerd/sys"
	"google.golang.org/protobuf/encoding/protowire"
	v1 "gvisor.dev/gvisor/pkg/shim/v1"
)

const (
	// addressFile is where the shim and containerd look for the address of the shim's socket.
	addressFile = "address"
	// oomScore keeps the shim alive for as long as anything else can be killed.
	oomScore = -999
	// socketDirField is the number of containerd.runtime.bootstrap.v1.BootstrapParams.socket_dir.
	socketDirField = 9
	// bootstrapLimit is more than containerd ever sends, in bytes.
	bootstrapLimit = 1 << 20
)

func main() {
	shim.Run("io.containerd.runsc.v1", newService)
}

// service is gVisor's but for StartShim.
type service struct {
	shim.Shim
}

func newService(ctx context.Context, id string, publisher shim.Publisher, cancel func()) (shim.Shim, error) {
	theirs, err := v1.New(ctx, id, publisher, cancel)
	if err != nil {
		return nil, err
	}
	return service{theirs}, nil
}

// StartShim starts the process that serves the task of a pod sandbox and returns the address of its socket. It runs in
// the bundle's directory.
func (service) StartShim(ctx context.Context, opts shim.StartOpts) (string, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return "", err
	}
	address, err := socketAddress(ctx, namespace, opts)
	if err != nil {
		return "", err
	}
	listener, err := listen(address)
	if err != nil || listener == nil {
		return address, err
	}
	defer listener.Close()
	if err := serve(listener, namespace, opts); err != nil {
		return "", errors.Join(err, shim.RemoveSocket(address))
	}
	return address, shim.WriteAddress(addressFile, address)
}

// socketAddress is in the directory that containerd names, and in the shared one where it names none.
func socketAddress(ctx context.Context, namespace string, opts shim.StartOpts) (string, error) {
	params, err := io.ReadAll(io.LimitReader(os.Stdin, bootstrapLimit))
	if err != nil {
		return "", fmt.Errorf("read the bootstrap parameters: %w", err)
	}
	directory := socketDir(params)
	if directory == "" {
		return shim.SocketAddress(ctx, opts.Address, opts.ID)
	}
	name := sha256.Sum256([]byte(filepath.Join(opts.Address, namespace, opts.ID)))
	return fmt.Sprintf("unix://%s/%x", directory, name), nil
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
			return nil, shim.WriteAddress(addressFile, address)
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
func serve(listener *os.File, namespace string, opts shim.StartOpts) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"-namespace", namespace, "-address", opts.Address, "-publish-binary", opts.ContainerdBinary}
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
