# hmr-skel for CPUs, of this clone. TORCH_INDEX is a package index that has torch's CPU build (docs/commands.md):
#     docker build --build-arg TORCH_INDEX=... -t hmr-skel .
#     docker run --rm -v hmr-skel:/data hmr-skel fit --shard 7
# Datasets and networks go to /data. tests/test_wheel.py runs the RUN lines as they stand here.
FROM python:3.12-slim
ARG TORCH_INDEX
COPY . /src
WORKDIR /src
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt .
WORKDIR /data
RUN python -m fitting.lanes
ENV HMR_SKEL_DATA=/data DO_NOT_TRACK=1
ENTRYPOINT ["hmr-skel"]
CMD ["--help"]
