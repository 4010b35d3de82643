# CPU image: docker build -t srgan . && docker run -v "$PWD:/pictures" srgan upscale.py /pictures/photo.jpg
# Not run by us.
FROM python:3.12-slim
WORKDIR /srgan
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN useradd --create-home srgan && chown -R srgan /srgan
USER srgan
ENTRYPOINT ["python"]
CMD ["upscale.py", "--help"]
