"""Numbers from images and ratings: PSNR, SSIM, edit regions, OCR, agreement of raters, confidence intervals."""
